//! A result: one JSON line.

use std::fmt;

use serde::Serialize;

use crate::machine;
use crate::sample::Sample;

/// What was measured, of whom, beside whom, and where.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// The case.
    pub bench: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// The number format of the weights.
    pub dtype: String,
    /// Batch and lengths.
    pub shape: String,
    /// Our median.
    pub value: f64,
    /// What the values count.
    pub unit: &'static str,
    /// Our smallest.
    pub min: f64,
    /// Our greatest.
    pub max: f64,
    /// How often it was measured.
    pub runs: usize,
    /// The peer's side.
    #[serde(flatten)]
    pub peer: Option<Peer>,
    /// For a peak of memory: ours before a model was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// For a peak of memory: the peer's before a model was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_before: Option<f64>,
    /// For growth: what was measured at each size.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<[f64; 2]>,
    /// The share of the machine that other processes took, at worst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<f64>,
    /// Threads of each contender.
    pub threads: usize,
    /// The CPU.
    pub machine: String,
    /// Our commit.
    pub commit: String,
}

/// The peer's side of a [`Record`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Peer {
    /// Names and versions of its software.
    pub peer: String,
    /// Its median.
    pub peer_value: f64,
    /// Its smallest.
    pub peer_min: f64,
    /// Its greatest.
    pub peer_max: f64,
    /// Our median divided by its.
    pub ratio: f64,
    /// The share of greedy tokens that are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
}

impl Record {
    /// A record of our own measurements, on this machine and of this commit.
    pub fn new(
        bench: &str,
        dtype: impl fmt::Display,
        shape: String,
        ours: &Sample,
        unit: &'static str,
    ) -> Self {
        Self {
            bench: bench.to_owned(),
            device: "cpu".to_owned(),
            dtype: dtype.to_string(),
            shape,
            value: rounded(ours.median()),
            unit,
            min: rounded(ours.min()),
            max: rounded(ours.max()),
            runs: ours.runs(),
            peer: None,
            before: None,
            peer_before: None,
            points: Vec::new(),
            others: None,
            threads: 0,
            machine: machine::description(),
            commit: machine::commit(),
        }
    }

    /// Puts the peer's measurements beside ours.
    pub fn beside(mut self, software: &str, peer: &Sample, agreement: Option<f64>) -> Self {
        let peer_value = rounded(peer.median());
        self.peer = Some(Peer {
            peer: software.to_owned(),
            peer_value,
            peer_min: rounded(peer.min()),
            peer_max: rounded(peer.max()),
            ratio: rounded(self.value / peer_value),
            agreement: agreement.map(rounded),
        });
        self
    }
}

/// Four significant digits: more than any measurement has.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bench,
            dtype,
            shape,
            value,
            unit,
            min,
            max,
            ..
        } = self;
        write!(
            f,
            "{bench:<22} {dtype:<5} {shape:<10} {value:>8} {unit} ({min} … {max})"
        )?;
        if let Some(peer) = &self.peer {
            write!(
                f,
                ", peer {} ({} … {}), ratio {}",
                peer.peer_value, peer.peer_min, peer.peer_max, peer.ratio
            )?;
            if let Some(agreement) = peer.agreement {
                write!(f, ", tokens alike {agreement}")?;
            }
        }
        if let (Some(ours), Some(peer)) = (self.before, self.peer_before) {
            write!(f, ", before a model {ours} and {peer}")?;
        }
        if let Some(share) = self.others {
            write!(f, ", others took {share}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Number;

    #[test]
    fn a_line_has_the_ratio_of_the_medians() {
        let ours = Sample::new(vec![30.0, 29.0, 31.234_56]).unwrap();
        let peer = Sample::new(vec![20.0, 21.0, 19.0]).unwrap();
        let mut record = Record::new(
            "decode_b1",
            Number::F32,
            "1x(64+64)".to_owned(),
            &ours,
            "tok/s",
        )
        .beside("peer 1.0", &peer, Some(1.0));
        record.threads = 2;
        record.machine = "a CPU".to_owned();
        record.commit = "c0ffee".to_owned();
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"bench":"decode_b1","device":"cpu","dtype":"f32","shape":"1x(64+64)","value":30.0,"unit":"tok/s","min":29.0,"max":31.23,"runs":3,"peer":"peer 1.0","peer_value":20.0,"peer_min":19.0,"peer_max":21.0,"ratio":1.5,"agreement":1.0,"threads":2,"machine":"a CPU","commit":"c0ffee"}"#
        );
    }
}
