//! How long examples are.

use std::fmt;

use serde::Serialize;

/// Width of the longest bar, in characters.
const BAR: usize = 40;

/// Lengths of token sequences.
///
/// Displayed as bars over ranges that double: `0–15`, `16–31`, `32–63`, …
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LengthHistogram {
    /// The lengths in tokens, from the shortest to the longest.
    lengths: Vec<usize>,
}

impl LengthHistogram {
    /// Counts lengths.
    pub fn new(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        Self { lengths }
    }

    /// Number of sequences.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Number of tokens in all.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The smallest length that at least `percent` of a hundred sequences do not exceed (nearest rank); 0 without
    /// sequences.
    pub fn percentile(&self, percent: usize) -> usize {
        let rank = (self.lengths.len() * percent.min(100)).div_ceil(100);
        let found = self.lengths.get(rank.saturating_sub(1));
        found.copied().unwrap_or_default()
    }

    /// The ranges that hold the lengths, each with its number of sequences.
    fn buckets(&self) -> Vec<(usize, usize, usize)> {
        let (mut low, mut high) = (0_usize, 15_usize);
        let mut buckets = Vec::new();
        let mut rest = self.lengths.as_slice();
        while !rest.is_empty() {
            let (inside, beyond) = rest.split_at(rest.partition_point(|&length| length <= high));
            buckets.push((low, high, inside.len()));
            rest = beyond;
            (low, high) = (
                high.saturating_add(1),
                high.saturating_mul(2).saturating_add(1),
            );
        }
        let empty = buckets
            .iter()
            .take_while(|(_, _, count)| *count == 0)
            .count();
        buckets.split_off(empty)
    }
}

impl fmt::Display for LengthHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buckets = self.buckets();
        let most = buckets
            .iter()
            .map(|(_, _, count)| *count)
            .max()
            .unwrap_or(0);
        let digits = most.to_string().len();
        for (low, high, count) in buckets {
            let range = format!("{low}–{high}");
            // A range with anything in it has a bar that is seen.
            let bar = "█".repeat((count * BAR).div_ceil(most.max(1)));
            writeln!(
                f,
                "{}",
                format!("  {range:>13}  {count:>digits$}  {bar}").trim_end()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let lengths = LengthHistogram::new(vec![30, 10, 20, 40]);
        let ranks = [0, 25, 26, 50, 75, 99, 100, 200].map(|percent| lengths.percentile(percent));
        assert_eq!(ranks, [10, 10, 20, 20, 30, 40, 40, 40]);
        assert_eq!(LengthHistogram::default().percentile(50), 0);
    }

    #[test]
    fn ranges_double_and_hold_their_ends() {
        let lengths = LengthHistogram::new(vec![16, 31, 32, 63, 64, 300]);
        let expected = [
            (16, 31, 2),
            (32, 63, 2),
            (64, 127, 1),
            (128, 255, 0),
            (256, 511, 1),
        ];
        assert_eq!(lengths.buckets(), expected);
        assert_eq!(LengthHistogram::new(vec![usize::MAX]).buckets().len(), 1);
        assert_eq!(LengthHistogram::default().to_string(), "");
    }
}
