//! The report of a check.

use std::fmt;

use serde::Serialize;

use super::{LengthHistogram, Preview};

/// A record that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordError {
    /// What is wrong, with the place of the record.
    pub message: String,
}

/// What a dataset would train.
///
/// Displayed as text for a terminal; the alternate form `{:#}` colours it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CheckReport {
    /// Number of records that were read.
    pub records: usize,
    /// Number of records that can be trained on.
    pub encoded: usize,
    /// Number of over-long records that were left out.
    pub dropped: usize,
    /// Number of records that cannot be used, for the reasons below or another.
    pub failed: usize,
    /// Number of records that could not be read.
    pub unreadable: usize,
    /// Number of over-long records that were refused.
    pub too_long: usize,
    /// Number of records with nothing, or no context, to learn from.
    pub untrained: usize,
    /// The first records that cannot be used.
    pub errors: Vec<RecordError>,
    /// Number of records that were cut.
    pub truncated: usize,
    /// Number of tokens that were cut off.
    pub truncated_tokens: usize,
    /// Number of records that begin with BOS twice.
    pub double_bos: usize,
    /// Number of records whose trained tokens do not end with a token that ends a generation.
    pub missing_eos: usize,
    /// Number of records that have the ids and labels of an earlier one.
    pub duplicates: usize,
    /// Number of tokens that stand for what the vocabulary lacks.
    pub unk_tokens: usize,
    /// Number of records with such tokens.
    pub unk_records: usize,
    /// Number of ids that the model has no embedding for.
    pub out_of_vocabulary: usize,
    /// Number of tokens in records that have labels.
    pub labelled_tokens: usize,
    /// Number of tokens that are the target of a prediction.
    pub supervised_tokens: usize,
    /// Lengths of the token sequences, two for a pair.
    pub lengths: LengthHistogram,
    /// What is trained in the first records.
    pub previews: Vec<Preview>,
}

impl CheckReport {
    /// The share of the labelled records' tokens that is trained, in `[0, 1]`; 0 without such tokens.
    #[expect(clippy::cast_precision_loss, reason = "a share for people to read")]
    pub fn trained_share(&self) -> f64 {
        match self.labelled_tokens {
            0 => 0.0,
            tokens => self.supervised_tokens as f64 / tokens as f64,
        }
    }

    /// Whether there is nothing that should be mended: no failed record, no id out of the vocabulary, no double BOS,
    /// no missing EOS.
    pub fn is_clean(&self) -> bool {
        self.encoded > 0
            && [
                self.failed,
                self.out_of_vocabulary,
                self.double_bos,
                self.missing_eos,
            ] == [0; 4]
    }

    /// The lines about what was found, each with whether it is a fault.
    fn findings(&self) -> Vec<(bool, String)> {
        let counted = |count: usize, noun: &str| match count {
            1 => format!("1 {noun}"),
            count => format!("{count} {noun}s"),
        };
        let records = |count| counted(count, "record");
        let reasons: Vec<String> = [
            (self.unreadable, "unreadable"),
            (self.too_long, "too long"),
            (self.untrained, "with nothing to learn"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        let unusable = match reasons.is_empty() {
            true => "cannot be used".to_owned(),
            false => format!("cannot be used ({})", reasons.join(", ")),
        };
        let all = [
            (true, self.failed, unusable.as_str()),
            (false, self.dropped, "over-long and left out"),
            (false, self.duplicates, "repeated exactly"),
            (true, self.double_bos, "with BOS twice"),
            (
                true,
                self.missing_eos,
                "whose trained part does not end a generation (no EOS)",
            ),
        ];
        let mut lines: Vec<(bool, String)> = all
            .into_iter()
            .filter(|(_, count, _)| *count > 0)
            .map(|(fault, count, what)| (fault, format!("{} {what}", records(count))))
            .collect();
        if self.truncated > 0 {
            let cut = records(self.truncated);
            let tokens = counted(self.truncated_tokens, "token");
            lines.push((false, format!("{cut} cut, {tokens} lost")));
        }
        if self.unk_tokens > 0 {
            let tokens = counted(self.unk_tokens, "token");
            let held = records(self.unk_records);
            lines.push((
                false,
                format!("{tokens} unknown to the vocabulary, in {held}"),
            ));
        }
        if self.out_of_vocabulary > 0 {
            let ids = counted(self.out_of_vocabulary, "id");
            lines.push((true, format!("{ids} beyond the model's embedding")));
        }
        lines
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paint = |code: &'static str| if f.alternate() { code } else { "" };
        let (red, yellow, bold, reset) = (
            paint("\u{1b}[31m"),
            paint("\u{1b}[33m"),
            paint("\u{1b}[1m"),
            paint("\u{1b}[0m"),
        );
        writeln!(
            f,
            "{bold}{} records, {} usable{reset}",
            self.records, self.encoded
        )?;
        for (fault, line) in self.findings() {
            let (mark, colour) = if fault { ("✗", red) } else { ("!", yellow) };
            writeln!(f, "{colour}{mark}{reset} {line}")?;
        }
        if !self.errors.is_empty() {
            writeln!(f, "\n{bold}errors{reset}")?;
            for error in &self.errors {
                writeln!(f, "  {}", error.message)?;
            }
            let more = self.failed - self.errors.len();
            if more > 0 {
                writeln!(f, "  and {more} more")?;
            }
        }
        let lengths = &self.lengths;
        if lengths.count() > 0 {
            let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| lengths.percentile(percent));
            writeln!(
                f,
                "\n{bold}tokens{reset} {} in {} sequences; median {p50}, 90 % {p90}, 99 % {p99}, longest {max}",
                lengths.tokens(),
                lengths.count()
            )?;
            write!(f, "{lengths}")?;
        }
        if self.labelled_tokens > 0 {
            writeln!(
                f,
                "\n{bold}trained{reset} {} of {} tokens, {:.1} %",
                self.supervised_tokens,
                self.labelled_tokens,
                self.trained_share() * 100.0
            )?;
        }
        for preview in &self.previews {
            writeln!(f, "\n{bold}{}{reset}", preview.record)?;
            match f.alternate() {
                true => write!(f, "{preview:#}")?,
                false => write!(f, "{preview}")?,
            }
            if !preview.ends_line() {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
