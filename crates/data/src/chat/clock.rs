//! A point in civil time, and Python's `strftime` on it.
//!
//! Templates may print the date. They never read the clock: the caller says what time it is.

use std::fmt::Write as _;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const SECONDS_PER_DAY: i64 = 86_400;
/// Seconds from the start of year 0 to the start of 1970, and to the end of year 9999.
const FIRST_SECOND: i64 = -62_167_219_200;
const LAST_SECOND: i64 = 253_402_300_799;

/// A date and a time of day, without a time zone.
///
/// # Examples
/// ```
/// use flametune_data::CivilTime;
///
/// let time = CivilTime::from_unix(1_721_995_200);
/// assert_eq!(time.strftime("%d %b %Y").unwrap(), "26 Jul 2024");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CivilTime {
    days: i64,
    second_of_day: i64,
}

impl CivilTime {
    /// The civil time of a Unix time stamp; for local time, add the zone's offset in seconds first.
    ///
    /// Times outside of the years 0 to 9999 become the first or last second of that span.
    pub fn from_unix(seconds: i64) -> Self {
        let seconds = seconds.clamp(FIRST_SECOND, LAST_SECOND);
        Self {
            days: seconds.div_euclid(SECONDS_PER_DAY),
            second_of_day: seconds.rem_euclid(SECONDS_PER_DAY),
        }
    }

    /// Formats like Python's `datetime.strftime` in the C locale.
    ///
    /// # Errors
    /// The first directive that is not known, such as `%Q`.
    pub fn strftime(&self, format: &str) -> Result<String, String> {
        let (year, month, day) = self.date();
        let (hour, minute, second) = (
            self.second_of_day / 3600,
            self.second_of_day / 60 % 60,
            self.second_of_day % 60,
        );
        let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
        let month_name = usize::try_from(month - 1)
            .ok()
            .and_then(|index| MONTHS.get(index))
            .copied()
            .unwrap_or("");
        // 1 January 1970 was a Thursday.
        let weekday = (self.days + 3).rem_euclid(7);
        let weekday_name = usize::try_from(weekday)
            .ok()
            .and_then(|index| WEEKDAYS.get(index))
            .copied()
            .unwrap_or("");
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            // glibc's `-` drops the padding.
            let padded = directive != Some('-');
            if !padded {
                directive = chars.next();
            }
            let mut number = |value: i64, width: usize| {
                if padded {
                    let _ = write!(out, "{value:0width$}");
                } else {
                    let _ = write!(out, "{value}");
                }
            };
            match directive {
                Some('Y') => number(year, 4),
                Some('y') => number(year % 100, 2),
                Some('m') => number(month, 2),
                Some('d') => number(day, 2),
                Some('H') => number(hour, 2),
                Some('I') => number(hour12, 2),
                Some('M') => number(minute, 2),
                Some('S') => number(second, 2),
                Some('f') => number(0, 6),
                Some('j') => number(self.days - days_from_civil(year, 1, 1) + 1, 3),
                Some('w') => number((weekday + 1) % 7, 1),
                Some('u') => number(weekday + 1, 1),
                Some('e') => {
                    let _ = if padded {
                        write!(out, "{day:2}")
                    } else {
                        write!(out, "{day}")
                    };
                }
                Some('B') => out.push_str(month_name),
                Some('b' | 'h') => out.push_str(&month_name[..3]),
                Some('A') => out.push_str(weekday_name),
                Some('a') => out.push_str(&weekday_name[..3]),
                Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                Some('F') => out.push_str(&self.strftime("%Y-%m-%d")?),
                Some('T' | 'X') => out.push_str(&self.strftime("%H:%M:%S")?),
                Some('R') => out.push_str(&self.strftime("%H:%M")?),
                Some('D' | 'x') => out.push_str(&self.strftime("%m/%d/%y")?),
                Some('c') => out.push_str(&self.strftime("%a %b %e %H:%M:%S %Y")?),
                // A naive time has no zone: Python prints nothing.
                Some('z' | 'Z') => {}
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('%') => out.push('%'),
                Some(other) => return Err(format!("strftime does not know %{other}")),
                None => out.push('%'),
            }
        }
        Ok(out)
    }

    /// Year, month and day in the Gregorian calendar.
    ///
    /// # Source
    /// - Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    fn date(&self) -> (i64, i64, i64) {
        let shifted = self.days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        (year_of_era + era * 400 + i64::from(month <= 2), month, day)
    }
}

/// Days from 1 January 1970, the inverse of [`CivilTime::date`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_print_what_python_prints() {
        // datetime.utcfromtimestamp(1709164805): 2024-02-29 00:00:05, a Thursday, day 60 of the year.
        let time = CivilTime::from_unix(1_709_164_805);
        let check =
            |format: &str, expected: &str| assert_eq!(time.strftime(format).unwrap(), expected);
        check("%Y-%m-%d %H:%M:%S", "2024-02-29 00:00:05");
        check(
            "%d %b %Y|%B|%A|%a|%j|%w|%u",
            "29 Feb 2024|February|Thursday|Thu|060|4|4",
        );
        check("%I:%M %p %y %-d %-m %e 100%%", "12:00 AM 24 29 2 29 100%");
        check(
            "%F %T %D %c %z%Z",
            "2024-02-29 00:00:05 02/29/24 Thu Feb 29 00:00:05 2024 ",
        );
        check("é %", "é %");
        assert_eq!(
            time.strftime("%Q").unwrap_err(),
            "strftime does not know %Q"
        );
    }

    #[test]
    fn dates_before_the_epoch_and_at_the_limits_are_exact() {
        let date = |seconds| CivilTime::from_unix(seconds).strftime("%F %T").unwrap();
        assert_eq!(date(-1), "1969-12-31 23:59:59");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date(i64::MAX), "9999-12-31 23:59:59");
        assert_eq!(date(i64::MIN), "0000-01-01 00:00:00");
    }
}
