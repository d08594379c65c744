//! ROUGE-N, ROUGE-L and ROUGE-Lsum, as the `rouge-score` package computes them.

use std::collections::HashMap;
use std::hash::Hash;

use super::porter::porter_stem;

/// Which ROUGE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rouge {
    /// Shared n-grams of this length.
    N(usize),
    /// The longest common subsequence of the whole texts.
    L,
    /// The union of longest common subsequences of lines, summed over the reference's lines.
    Lsum,
}

/// Overlap as a share of the prediction, of the reference, and of both.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RougeScore {
    /// Of the prediction's units, the share found in the reference.
    pub precision: f64,
    /// Of the reference's units, the share found in the prediction.
    pub recall: f64,
    /// Harmonic mean of the two; 0 when both are.
    pub fmeasure: f64,
}

impl RougeScore {
    fn new(hits: usize, reference: usize, prediction: usize) -> Self {
        let precision = hits as f64 / prediction.max(1) as f64;
        let recall = hits as f64 / reference.max(1) as f64;
        let fmeasure = if precision + recall > 0.0 {
            2.0 * precision * recall / (precision + recall)
        } else {
            0.0
        };
        Self {
            precision,
            recall,
            fmeasure,
        }
    }
}

/// Scores one prediction against one reference.
///
/// Tokens are runs of lower-case ASCII letters and digits; with `stem`, those longer than three letters are
/// stemmed. Lines are the sentences of `Lsum`.
///
/// # Source
/// - Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, §2 and §3
/// - reference: `rouge_score` 0.1.2
///
/// # Examples
/// ```
/// use flametune_eval::metrics::{Rouge, rouge};
///
/// let score = rouge("the cat sat on the mat", "the cats sat", Rouge::N(1), true);
/// assert_eq!(score.recall, 1.0);
/// assert_eq!(score.precision, 0.5);
/// ```
#[must_use]
pub fn rouge(prediction: &str, reference: &str, which: Rouge, stem: bool) -> RougeScore {
    match which {
        Rouge::N(n) => ngrams(&tokens(prediction, stem), &tokens(reference, stem), n),
        Rouge::L => {
            let (prediction, reference) = (tokens(prediction, stem), tokens(reference, stem));
            if prediction.is_empty() || reference.is_empty() {
                return RougeScore::default();
            }
            let table = Table::new(&reference, &prediction);
            let hits = table.at(reference.len(), prediction.len());
            RougeScore::new(hits as usize, reference.len(), prediction.len())
        }
        Rouge::Lsum => summary(&lines(prediction, stem), &lines(reference, stem)),
    }
}

fn tokens(text: &str, stem: bool) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()))
        .filter(|token| !token.is_empty())
        .map(|token| {
            if stem && token.len() > 3 {
                porter_stem(token)
            } else {
                token.to_owned()
            }
        })
        .collect()
}

fn lines(text: &str, stem: bool) -> Vec<Vec<String>> {
    text.split('\n')
        .filter(|line| !line.is_empty())
        .map(|line| tokens(line, stem))
        .collect()
}

pub(super) fn count<T: Hash + Eq>(items: impl Iterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

fn ngrams(prediction: &[String], reference: &[String], n: usize) -> RougeScore {
    let n = n.max(1);
    let predicted = count(prediction.windows(n));
    let expected = count(reference.windows(n));
    let hits = expected
        .iter()
        .map(|(ngram, &times)| times.min(predicted.get(ngram).copied().unwrap_or(0)))
        .sum();
    let total = |counts: &HashMap<&[String], usize>| counts.values().sum();
    RougeScore::new(hits, total(&expected), total(&predicted))
}

/// Lengths of longest common subsequences of all beginnings.
struct Table {
    lengths: Vec<u32>,
    columns: usize,
}

impl Table {
    fn new(reference: &[String], candidate: &[String]) -> Self {
        let columns = candidate.len() + 1;
        let mut table = Self {
            lengths: vec![0; (reference.len() + 1) * columns],
            columns,
        };
        for i in 1..=reference.len() {
            for j in 1..columns {
                table.lengths[i * columns + j] = if reference[i - 1] == candidate[j - 1] {
                    table.at(i - 1, j - 1) + 1
                } else {
                    table.at(i - 1, j).max(table.at(i, j - 1))
                };
            }
        }
        table
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.lengths[i * self.columns + j]
    }

    /// Positions in the reference of one longest common subsequence: the one that the reference package finds.
    fn positions(&self, reference: &[String], candidate: &[String]) -> Vec<usize> {
        let (mut i, mut j) = (reference.len(), candidate.len());
        let mut positions = Vec::new();
        while i > 0 && j > 0 {
            if reference[i - 1] == candidate[j - 1] {
                positions.push(i - 1);
                i -= 1;
                j -= 1;
            } else if self.at(i, j - 1) > self.at(i - 1, j) {
                j -= 1;
            } else {
                i -= 1;
            }
        }
        positions
    }
}

fn summary(prediction: &[Vec<String>], reference: &[Vec<String>]) -> RougeScore {
    let total = |lines: &[Vec<String>]| lines.iter().map(Vec::len).sum::<usize>();
    let (expected, predicted) = (total(reference), total(prediction));
    if expected == 0 || predicted == 0 {
        return RougeScore::default();
    }
    // A token counts as often as it stands on both sides, however many lines find it.
    let mut left_expected = count(reference.iter().flatten());
    let mut left_predicted = count(prediction.iter().flatten());
    let mut hits = 0;
    for line in reference {
        let mut union = vec![false; line.len()];
        for candidate in prediction {
            for position in Table::new(line, candidate).positions(line, candidate) {
                union[position] = true;
            }
        }
        for (token, _) in line.iter().zip(union).filter(|(_, found)| *found) {
            let (Some(a), Some(b)) = (left_expected.get_mut(token), left_predicted.get_mut(token))
            else {
                continue;
            };
            if *a > 0 && *b > 0 {
                *a -= 1;
                *b -= 1;
                hits += 1;
            }
        }
    }
    RougeScore::new(hits, expected, predicted)
}
