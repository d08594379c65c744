//! Results as the benches print them and the repository keeps them: one JSON object a line.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The part of a line that the page shows; the rest is kept as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The case.
    pub(crate) bench: String,
    /// The kind of device.
    pub(crate) device: String,
    /// The number format of the weights.
    pub(crate) dtype: String,
    /// Batch and lengths.
    pub(crate) shape: String,
    /// Our median.
    pub(crate) value: f64,
    /// What the values count.
    pub(crate) unit: String,
    /// Our smallest.
    pub(crate) min: f64,
    /// Our greatest.
    pub(crate) max: f64,
    /// How often it was measured.
    pub(crate) runs: usize,
    /// The peer's names and versions.
    pub(crate) peer: Option<String>,
    /// The peer's median.
    pub(crate) peer_value: Option<f64>,
    /// The peer's smallest.
    pub(crate) peer_min: Option<f64>,
    /// The peer's greatest.
    pub(crate) peer_max: Option<f64>,
    /// Our median divided by the peer's.
    pub(crate) ratio: Option<f64>,
    /// The share of greedy tokens that are the same.
    pub(crate) agreement: Option<f64>,
    /// Threads of each contender.
    pub(crate) threads: usize,
    /// The device in words.
    pub(crate) machine: String,
    /// Our commit.
    pub(crate) commit: String,
    /// Everything else.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// Lines, at most one for each case, device, number format and shape.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Results(Vec<Line>);

impl Results {
    /// Reads lines; empty ones are passed over.
    pub(crate) fn from_jsonl(text: &str) -> Result<Self> {
        let lines = text.lines().enumerate();
        lines
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(index, line)| {
                serde_json::from_str(line).with_context(|| format!("line {}", index + 1))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Writes lines.
    pub(crate) fn to_jsonl(&self) -> Result<String> {
        let mut text = String::new();
        for line in &self.0 {
            text += &serde_json::to_string(line)?;
            text.push('\n');
        }
        Ok(text)
    }

    /// Appends lines.
    pub(crate) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Takes lines in, each in the place of an older one of its case, else at the end.
    pub(crate) fn replace(&mut self, fresh: Self) {
        for line in fresh.0 {
            match self.0.iter_mut().find(|kept| kept.key() == line.key()) {
                Some(kept) => *kept = line,
                None => self.0.push(line),
            }
        }
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines.
    pub(crate) fn lines(&self) -> &[Line] {
        &self.0
    }
}

impl Line {
    /// What tells a result from others.
    pub(crate) fn key(&self) -> [&str; 4] {
        [&self.bench, &self.device, &self.dtype, &self.shape]
    }

    /// Whether a greater value is a better one: not of times, memory, perplexity and growth.
    pub(crate) fn more_is_better(&self) -> bool {
        !matches!(
            self.unit.as_str(),
            "s" | "ms" | "MB" | "perplexity" | "exponent"
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A line as a bench prints it.
    pub(crate) fn line(bench: &str, dtype: &str, value: f64) -> String {
        format!(
            r#"{{"bench":"{bench}","device":"cpu","dtype":"{dtype}","shape":"1x512","value":{value:?},"unit":"tok/s","min":1234.0,"max":3.5,"runs":7,"peer":"transformers 5","peer_value":2.0,"peer_min":1.0,"peer_max":3.0,"ratio":{:?},"agreement":1.0,"threads":2,"machine":"a CPU","commit":"c0ffee","others":0.01}}"#,
            value / 2.0
        )
    }

    #[test]
    fn a_line_keeps_what_it_came_with() {
        let text = line("prefill_512", "f32", 3.0) + "\n";
        let results = Results::from_jsonl(&text).unwrap();
        assert_eq!(results.to_jsonl().unwrap(), text);
    }

    #[test]
    fn fresh_results_take_the_places_of_older_ones() {
        let read = |lines: &[String]| Results::from_jsonl(&lines.join("\n")).unwrap();
        let mut kept = read(&[line("a", "f32", 1.0), line("b", "f32", 1.0)]);
        kept.replace(read(&[line("a", "bf16", 2.0), line("a", "f32", 3.0)]));
        let values: Vec<_> = kept
            .lines()
            .iter()
            .map(|line| (&line.bench[..], &line.dtype[..], line.value))
            .collect();
        assert_eq!(
            values,
            [("a", "f32", 3.0), ("b", "f32", 1.0), ("a", "bf16", 2.0)]
        );
    }

    #[test]
    fn a_line_that_is_no_result_is_named() {
        let error = Results::from_jsonl("\n{}\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2");
    }
}
