//! BLEU of a corpus or a sentence, as sacreBLEU computes it.

use super::bleu_tokens::BleuTokenizer;
use super::rouge::count;

/// Longest n-grams that are compared.
const MAX_ORDER: usize = 4;

/// What is done about an n-gram order without a match.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum BleuSmoothing {
    /// Nothing: the score becomes 0.
    None,
    /// This many matches are assumed (0.1 unless said otherwise).
    Floor(f64),
    /// This is added to matches and totals above unigrams (1 unless said otherwise).
    AddK(f64),
    /// `1 / (2ᵏ · total)` at the k-th order without a match: NIST's way, the default.
    #[default]
    Exp,
}

/// How BLEU is computed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BleuOptions {
    /// How text becomes words.
    pub tokenizer: BleuTokenizer,
    /// Compares in lower case.
    pub lowercase: bool,
    /// What is done about an order without a match.
    pub smoothing: BleuSmoothing,
    /// Averages only over the orders that the prediction is long enough for: for single sentences.
    pub effective_order: bool,
}

/// A score and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bleu {
    /// 0 to 100.
    pub score: f64,
    /// Matched n-grams of orders 1 to 4, with what smoothing added.
    pub counts: [f64; MAX_ORDER],
    /// N-grams of the predictions.
    pub totals: [f64; MAX_ORDER],
    /// Per cent.
    pub precisions: [f64; MAX_ORDER],
    /// Brevity penalty.
    pub bp: f64,
    /// Words of the predictions.
    pub sys_len: usize,
    /// Words of the references nearest in length.
    pub ref_len: usize,
}

/// BLEU of predictions, each against one or more references.
///
/// # Source
/// - Papineni et al. 2002, BLEU, ACL P02-1040, §2.3; Chen and Cherry 2014, W14-3346, for the smoothing
/// - reference: sacreBLEU 2.6.0 `metrics/bleu.py` (Post 2018, arXiv:1804.08771)
///
/// # Examples
/// ```
/// use flametune_eval::metrics::{BleuOptions, bleu};
///
/// let score = bleu(&["The cat sat on the mat."], &[vec!["The cat sat on the mat."]], &BleuOptions::default());
/// assert!((score.score - 100.0).abs() < 1e-9);
/// ```
#[must_use]
pub fn bleu<P: AsRef<str>, R: AsRef<str>>(
    predictions: &[P],
    references: &[Vec<R>],
    options: &BleuOptions,
) -> Bleu {
    let mut matches = [0_usize; MAX_ORDER];
    let mut totals = [0_usize; MAX_ORDER];
    let (mut sys_len, mut ref_len) = (0, 0);
    for (prediction, references) in predictions.iter().zip(references) {
        let words = words(prediction.as_ref(), options);
        let references: Vec<Vec<String>> = references
            .iter()
            .map(|reference| self::words(reference.as_ref(), options))
            .collect();
        sys_len += words.len();
        ref_len += closest(words.len(), references.iter().map(Vec::len));
        for order in 1..=MAX_ORDER {
            let expected: Vec<_> = references
                .iter()
                .map(|reference| count(reference.windows(order)))
                .collect();
            for (ngram, times) in count(words.windows(order)) {
                totals[order - 1] += times;
                let most = expected.iter().filter_map(|counts| counts.get(ngram)).max();
                matches[order - 1] += times.min(most.copied().unwrap_or(0));
            }
        }
    }
    score(&matches, &totals, sys_len, ref_len, options)
}

/// BLEU of one prediction, over the orders it is long enough for.
#[must_use]
pub fn sentence_bleu<R: AsRef<str>>(
    prediction: &str,
    references: &[R],
    options: &BleuOptions,
) -> Bleu {
    let options = BleuOptions {
        effective_order: true,
        ..*options
    };
    let references: Vec<&str> = references.iter().map(AsRef::as_ref).collect();
    bleu(&[prediction], &[references], &options)
}

fn words(text: &str, options: &BleuOptions) -> Vec<String> {
    if options.lowercase {
        options.tokenizer.words(&text.to_lowercase())
    } else {
        options.tokenizer.words(text)
    }
}

/// The length nearest to `len`; the shorter of two equally near ones.
fn closest(len: usize, lengths: impl Iterator<Item = usize>) -> usize {
    lengths
        .min_by_key(|&other| (other.abs_diff(len), other))
        .unwrap_or(0)
}

fn score(
    matches: &[usize; MAX_ORDER],
    totals: &[usize; MAX_ORDER],
    sys_len: usize,
    ref_len: usize,
    options: &BleuOptions,
) -> Bleu {
    let bp = if sys_len >= ref_len {
        1.0
    } else if sys_len > 0 {
        (1.0 - ref_len as f64 / sys_len as f64).exp()
    } else {
        0.0
    };
    let mut bleu = Bleu {
        score: 0.0,
        counts: matches.map(|count| count as f64),
        totals: totals.map(|count| count as f64),
        precisions: [0.0; MAX_ORDER],
        bp,
        sys_len,
        ref_len,
    };
    if matches.iter().all(|&count| count == 0) {
        return bleu;
    }
    let mut halvings = 1.0;
    let mut orders = MAX_ORDER;
    for order in 0..MAX_ORDER {
        if let BleuSmoothing::AddK(k) = options.smoothing
            && order > 0
        {
            bleu.counts[order] += k;
            bleu.totals[order] += k;
        }
        let total = bleu.totals[order];
        if total == 0.0 {
            break;
        }
        if options.effective_order {
            orders = order + 1;
        }
        bleu.precisions[order] = if bleu.counts[order] > 0.0 {
            100.0 * bleu.counts[order] / total
        } else {
            match options.smoothing {
                BleuSmoothing::Exp => {
                    halvings *= 2.0;
                    100.0 / (halvings * total)
                }
                BleuSmoothing::Floor(floor) => 100.0 * floor / total,
                BleuSmoothing::None | BleuSmoothing::AddK(_) => 0.0,
            }
        };
    }
    let logs: f64 = bleu.precisions[..orders]
        .iter()
        // The reference's logarithm of zero.
        .map(|&p| if p == 0.0 { -9_999_999_999.0 } else { p.ln() })
        .sum();
    bleu.score = bp * (logs / orders as f64).exp();
    bleu
}
