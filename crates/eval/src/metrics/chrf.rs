//! chrF and chrF++: F-scores of character (and word) n-grams, as sacreBLEU computes them.

use std::hash::Hash;

use super::rouge::count;
use crate::python;

/// How chrF is computed; the default is chrF2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChrfOptions {
    /// Longest character n-grams.
    pub char_order: usize,
    /// Longest word n-grams: 0 for chrF, 2 for chrF++.
    pub word_order: usize,
    /// How many times more recall counts than precision.
    pub beta: f64,
    /// Compares in lower case.
    pub lowercase: bool,
}

impl Default for ChrfOptions {
    fn default() -> Self {
        Self {
            char_order: 6,
            word_order: 0,
            beta: 2.0,
            lowercase: false,
        }
    }
}

impl ChrfOptions {
    /// chrF++: with word uni- and bigrams.
    #[must_use]
    pub fn plus_plus() -> Self {
        Self {
            word_order: 2,
            ..Self::default()
        }
    }
}

/// N-grams of the prediction, of the reference, and shared, for one order.
#[derive(Debug, Clone, Copy, Default)]
struct Order {
    predicted: usize,
    expected: usize,
    shared: usize,
}

/// chrF of predictions, 0 to 100, each against one or more references.
///
/// # Source
/// - Popović 2015, chrF, W15-3049; Popović 2017, chrF++, W17-4770
/// - reference: sacreBLEU 2.6.0 `metrics/chrf.py`, with its effective order
///
/// # Examples
/// ```
/// use flametune_eval::metrics::{ChrfOptions, chrf};
///
/// assert_eq!(chrf(&["same"], &[vec!["same"]], &ChrfOptions::default()), 100.0);
/// ```
#[must_use]
pub fn chrf<P: AsRef<str>, R: AsRef<str>>(
    predictions: &[P],
    references: &[Vec<R>],
    options: &ChrfOptions,
) -> f64 {
    let mut sums = vec![Order::default(); options.char_order + options.word_order];
    for (prediction, references) in predictions.iter().zip(references) {
        let mut best: Option<(f64, Vec<Order>)> = None;
        for reference in references {
            let orders = orders(prediction.as_ref(), reference.as_ref(), options);
            let score = score(&orders, options.beta);
            if best.as_ref().is_none_or(|(best, _)| score > *best) {
                best = Some((score, orders));
            }
        }
        for (sum, order) in sums
            .iter_mut()
            .zip(best.map(|best| best.1).unwrap_or_default())
        {
            sum.predicted += order.predicted;
            sum.expected += order.expected;
            sum.shared += order.shared;
        }
    }
    score(&sums, options.beta)
}

/// chrF of one prediction.
#[must_use]
pub fn sentence_chrf<R: AsRef<str>>(
    prediction: &str,
    references: &[R],
    options: &ChrfOptions,
) -> f64 {
    let references: Vec<&str> = references.iter().map(AsRef::as_ref).collect();
    chrf(&[prediction], &[references], options)
}

fn orders(prediction: &str, reference: &str, options: &ChrfOptions) -> Vec<Order> {
    let case = |text: &str| {
        if options.lowercase {
            text.to_lowercase()
        } else {
            text.to_owned()
        }
    };
    let (prediction, reference) = (case(prediction), case(reference));
    let letters =
        |text: &str| -> Vec<char> { text.chars().filter(|&c| !python::is_space(c)).collect() };
    let (predicted, expected) = (letters(&prediction), letters(&reference));
    let mut orders: Vec<Order> = (1..=options.char_order)
        .map(|n| compare(&predicted, &expected, n))
        .collect();
    if options.word_order > 0 {
        let (predicted, expected) = (words(&prediction), words(&reference));
        orders.extend((1..=options.word_order).map(|n| compare(&predicted, &expected, n)));
    }
    orders
}

fn compare<T: Hash + Eq>(predicted: &[T], expected: &[T], n: usize) -> Order {
    let reference = count(expected.windows(n));
    let total = expected.len().saturating_sub(n - 1);
    if total == 0 {
        // The reference counts no n-grams where there are none to find.
        return Order::default();
    }
    let shared = count(predicted.windows(n))
        .into_iter()
        .map(|(ngram, times)| times.min(reference.get(ngram).copied().unwrap_or(0)))
        .sum();
    Order {
        predicted: predicted.len().saturating_sub(n - 1),
        expected: total,
        shared,
    }
}

/// Words, with one punctuation mark at their end or else at their beginning apart.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for word in python::split(text) {
        let (first, last) = (word.chars().next(), word.chars().next_back());
        let single = word.chars().nth(1).is_none();
        let mark = |c: Option<char>| c.filter(char::is_ascii_punctuation).map(char::len_utf8);
        match (mark(first), mark(last)) {
            _ if single => words.push(word),
            (_, Some(len)) => {
                let (start, end) = word.split_at(word.len() - len);
                words.extend([start, end]);
            }
            (Some(len), None) => {
                let (start, end) = word.split_at(len);
                words.extend([start, end]);
            }
            (None, None) => words.push(word),
        }
    }
    words
}

fn score(orders: &[Order], beta: f64) -> f64 {
    let factor = beta * beta;
    let (mut precision, mut recall, mut effective) = (0.0, 0.0, 0.0);
    for order in orders {
        if order.predicted > 0 && order.expected > 0 {
            precision += order.shared as f64 / order.predicted as f64;
            recall += order.shared as f64 / order.expected as f64;
            effective += 1.0;
        }
    }
    if effective == 0.0 || precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / effective, recall / effective);
    100.0 * ((1.0 + factor) * precision * recall / (factor * precision + recall))
}
