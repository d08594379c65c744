//! The figures of a load.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::request::Sample;

/// The percentiles that are reported.
const SHARES: [(&str, f64); 4] = [("p50", 0.50), ("p90", 0.90), ("p99", 0.99), ("max", 1.0)];

/// The figures of a load.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Report {
    pub(super) requests: usize,
    pub(super) failed: usize,
    /// From the first sending to the last end.
    span: Duration,
    prompt_tokens: u64,
    tokens: u64,
    first: Series,
    gaps: Series,
    total: Series,
}

/// Times, in order.
#[derive(Debug, Clone, PartialEq, Default)]
struct Series(Vec<Duration>);

impl Series {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.collect();
        times.sort_unstable();
        Self(times)
    }

    /// The smallest time that at least this share of all times does not exceed (nearest rank).
    fn percentile(&self, share: f64) -> Option<Duration> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank of the list"
        )]
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied()
    }
}

impl Report {
    pub(super) fn of(samples: &[Sample]) -> Self {
        let whole = || samples.iter().filter(|sample| sample.error.is_none());
        let began = samples.iter().map(|sample| sample.sent).min();
        let ended = samples
            .iter()
            .map(|sample| sample.sent + sample.total)
            .max();
        Self {
            requests: samples.len(),
            failed: samples.len() - whole().count(),
            span: ended
                .unwrap_or_default()
                .saturating_sub(began.unwrap_or_default()),
            prompt_tokens: whole().map(|sample| sample.prompt_tokens).sum(),
            tokens: whole().map(|sample| sample.tokens).sum(),
            first: Series::of(whole().filter_map(|sample| sample.first)),
            gaps: Series::of(whole().flat_map(|sample| sample.gaps.iter().copied())),
            total: Series::of(whole().map(|sample| sample.total)),
        }
    }

    fn series(&self) -> [(&'static str, &Series); 3] {
        [
            ("time to first token", &self.first),
            ("between tokens", &self.gaps),
            ("whole request", &self.total),
        ]
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.span.as_secs_f64().max(1e-9)
    }

    pub(super) fn to_json(&self) -> Value {
        let mut report = json!({
            "requests": self.requests,
            "failed": self.failed,
            "seconds": self.span.as_secs_f64(),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "requests_per_second": self.per_second((self.requests - self.failed) as u64),
            "completion_tokens_per_second": self.per_second(self.tokens),
        });
        for (name, series) in self.series() {
            let values: serde_json::Map<String, Value> = SHARES
                .iter()
                .map(|&(share, at)| {
                    let seconds = series.percentile(at).map(|time| time.as_secs_f64());
                    (share.to_owned(), json!(seconds))
                })
                .collect();
            report[format!("{}_s", name.replace(' ', "_"))] = Value::Object(values);
        }
        report
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} requests in {:.2} s, {} failed; {:.2} requests/s, {:.1} tokens/s out",
            self.requests,
            self.span.as_secs_f64(),
            self.failed,
            self.per_second((self.requests - self.failed) as u64),
            self.per_second(self.tokens),
        )?;
        write!(f, "{:<22}", "milliseconds")?;
        for (name, _) in SHARES {
            write!(f, "{name:>11}")?;
        }
        writeln!(f)?;
        for (name, series) in self.series() {
            write!(f, "{name:<22}")?;
            for (_, share) in SHARES {
                match series.percentile(share) {
                    Some(time) => write!(f, "{:>11.1}", time.as_secs_f64() * 1e3)?,
                    None => write!(f, "{:>11}", "-")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let series = Series::of((1..=200).rev().map(ms));
        for (share, expected) in [(0.5, 100), (0.9, 180), (0.99, 198), (1.0, 200), (0.0, 1)] {
            assert_eq!(series.percentile(share), Some(ms(expected)));
        }
        assert_eq!(
            Series::of([ms(7)].into_iter()).percentile(0.99),
            Some(ms(7))
        );
        assert_eq!(Series::default().percentile(0.5), None);
    }

    #[test]
    fn failures_count_and_have_no_times() {
        let good = Sample {
            sent: ms(100),
            first: Some(ms(20)),
            gaps: vec![ms(5), ms(7)],
            total: ms(900),
            prompt_tokens: 10,
            tokens: 3,
            error: None,
        };
        let bad = Sample {
            sent: ms(600),
            total: ms(500),
            error: Some("x".to_owned()),
            ..Sample::default()
        };
        let report = Report::of(&[good, bad]);
        assert_eq!((report.requests, report.failed, report.tokens), (2, 1, 3));
        assert_eq!(report.span, ms(1000));
        assert_eq!(report.total.0, [ms(900)]);
        let json = report.to_json();
        assert_eq!(json["completion_tokens_per_second"], 3.0);
        assert_eq!(json["time_to_first_token_s"]["p99"], 0.02);
        assert_eq!(json["between_tokens_s"]["p50"], 0.005);
        assert!(report.to_string().contains("1 failed"));
    }
}
