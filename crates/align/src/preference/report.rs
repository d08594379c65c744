//! How likely the answers of pairs are, and which of the two is more so.

use flametune_data::{Collator, EncodedPair};
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;

use super::batch::{AnswerBatch, answer_logps};
use super::rows::{AnswerRows, Answers};
use crate::error::{Error, Result};
use crate::host::count;

/// The log-probabilities of both answers of each pair.
///
/// # Examples
/// ```
/// use flametune_align::preference::PairScores;
///
/// let base = PairScores { chosen: vec![-9.0, -4.0], rejected: vec![-8.0, -6.0], lengths: vec![(9, 2), (2, 2)] };
/// assert_eq!(base.prefers_by_sum(), [false, true]);
/// assert_eq!(base.prefers_by_mean(), [true, true]);
/// let tuned = PairScores { chosen: vec![-8.0, -4.0], rejected: vec![-8.0, -5.0], ..base.clone() };
/// assert_eq!(tuned.prefers_by_reward(&base), [true, false]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PairScores {
    /// Of the preferred answers, summed over tokens.
    pub chosen: Vec<f32>,
    /// Of the others.
    pub rejected: Vec<f32>,
    /// The tokens of both.
    pub lengths: Vec<(usize, usize)>,
}

impl PairScores {
    /// Scores all pairs of `rows`, `size` at a time; `model` has no autodiff.
    ///
    /// # Errors
    /// [`Error::Empty`] for rows that are no pairs; those of batches and of the forward pass.
    pub fn measure(
        model: &CausalLm,
        rows: &AnswerRows,
        pass: &AdapterPass,
        size: usize,
        collator: &Collator,
    ) -> Result<Self> {
        let Answers::Pairs(pairs) = &rows.answers else {
            return Err(Error::Empty {
                what: "pair of answers",
            });
        };
        // Pairs of similar length go together, which saves padding.
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by_key(|&index| pairs[index].chosen.len().max(pairs[index].rejected.len()));
        let mut found = Self {
            chosen: vec![0.0; pairs.len()],
            rejected: vec![0.0; pairs.len()],
            lengths: vec![(0, 0); pairs.len()],
        };
        for places in order.chunks(size.max(1)) {
            let chunk: Vec<&EncodedPair> = places.iter().map(|&place| &pairs[place]).collect();
            let batch = AnswerBatch::pairs(&chunk, false, collator, None)?;
            let logps = answer_logps(model, &batch.sequences, pass)?;
            let lengths = batch.sequences.lengths();
            for (index, &place) in places.iter().enumerate() {
                let other = index + places.len();
                found.chosen[place] = logps[index];
                found.rejected[place] = logps[other];
                found.lengths[place] = (lengths[index], lengths[other]);
            }
        }
        Ok(found)
    }

    /// Whether each preferred answer is the more likely one.
    pub fn prefers_by_sum(&self) -> Vec<bool> {
        let both = self.chosen.iter().zip(&self.rejected);
        both.map(|(chosen, rejected)| chosen > rejected).collect()
    }

    /// Whether a token of each preferred answer is more likely on average.
    pub fn prefers_by_mean(&self) -> Vec<bool> {
        let mean = |sum: f32, tokens: usize| f64::from(sum) / count(tokens.max(1));
        let both = self.chosen.iter().zip(&self.rejected).zip(&self.lengths);
        both.map(|((chosen, rejected), tokens)| mean(*chosen, tokens.0) > mean(*rejected, tokens.1))
            .collect()
    }

    /// Whether the implicit reward of each preferred answer, `log π/ρ` with the reference's scores
    /// of the same pairs, is the higher one.
    pub fn prefers_by_reward(&self, reference: &Self) -> Vec<bool> {
        let gap = |scores: &Self| -> Vec<f64> {
            let both = scores.chosen.iter().zip(&scores.rejected);
            both.map(|(chosen, rejected)| f64::from(*chosen) - f64::from(*rejected))
                .collect()
        };
        let both = gap(self).into_iter().zip(gap(reference));
        both.map(|(policy, reference)| policy > reference).collect()
    }
}
