//! Scores of predicted classes: accuracy, precision, recall, F1, Matthews correlation, area under the curve.

use std::collections::BTreeMap;

/// How often each true class was given each predicted class.
///
/// Classes are the labels that occur, in ascending order, as scikit-learn has them.
///
/// # Examples
/// ```
/// use flametune_eval::metrics::Confusion;
///
/// let table = Confusion::new(&[0, 1, 1, 2], &[0, 1, 2, 2]);
/// assert_eq!(table.accuracy(), 0.75);
/// assert_eq!(table.counts(), [[1, 0, 0], [0, 1, 1], [0, 0, 1]]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: Vec<i64>,
    counts: Vec<Vec<u64>>,
}

/// Precision, recall and F1 of one class, and how many examples it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassScores {
    /// True positives among the predicted; 0 when nothing was predicted.
    pub precision: f64,
    /// True positives among the true; 0 when there are none.
    pub recall: f64,
    /// `2·TP / (predicted + true)`; 0 when both are 0.
    pub f1: f64,
    /// Examples that are of this class.
    pub support: u64,
}

impl Confusion {
    /// Counts pairs; the shorter list decides how many.
    #[must_use]
    pub fn new(truth: &[i64], predicted: &[i64]) -> Self {
        let mut places: BTreeMap<i64, usize> = BTreeMap::new();
        let pairs = || truth.iter().zip(predicted);
        for (&truth, &predicted) in pairs() {
            places.insert(truth, 0);
            places.insert(predicted, 0);
        }
        for (place, at) in places.values_mut().enumerate() {
            *at = place;
        }
        let mut counts = vec![vec![0; places.len()]; places.len()];
        for (truth, predicted) in pairs() {
            counts[places[truth]][places[predicted]] += 1;
        }
        Self {
            classes: places.into_keys().collect(),
            counts,
        }
    }

    /// The classes, ascending.
    #[must_use]
    pub fn classes(&self) -> &[i64] {
        &self.classes
    }

    /// Rows are true classes, columns predicted ones.
    #[must_use]
    pub fn counts(&self) -> &[Vec<u64>] {
        &self.counts
    }

    /// Number of examples.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    fn hits(&self) -> u64 {
        self.counts
            .iter()
            .enumerate()
            .map(|(at, row)| row[at])
            .sum()
    }

    fn truths(&self, class: usize) -> u64 {
        self.counts[class].iter().sum()
    }

    fn predictions(&self, class: usize) -> u64 {
        self.counts.iter().map(|row| row[class]).sum()
    }

    /// Share of examples whose class was predicted; 0 of none.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        ratio(self.hits(), self.total())
    }

    /// Mean recall of the classes that have examples.
    #[must_use]
    pub fn balanced_accuracy(&self) -> f64 {
        let recalls: Vec<f64> = (0..self.classes.len())
            .filter(|&class| self.truths(class) > 0)
            .map(|class| ratio(self.counts[class][class], self.truths(class)))
            .collect();
        mean(recalls.iter().copied(), recalls.len())
    }

    /// Scores of one class each, in the order of [`classes`](Self::classes).
    #[must_use]
    pub fn per_class(&self) -> Vec<ClassScores> {
        (0..self.classes.len())
            .map(|class| {
                let hits = self.counts[class][class];
                let (truths, predictions) = (self.truths(class), self.predictions(class));
                ClassScores {
                    precision: ratio(hits, predictions),
                    recall: ratio(hits, truths),
                    f1: ratio(2 * hits, truths + predictions),
                    support: truths,
                }
            })
            .collect()
    }

    /// Mean F1 over the classes.
    #[must_use]
    pub fn f1_macro(&self) -> f64 {
        self.mean_of(|scores| scores.f1)
    }

    /// Mean precision over the classes.
    #[must_use]
    pub fn precision_macro(&self) -> f64 {
        self.mean_of(|scores| scores.precision)
    }

    /// Mean recall over the classes.
    #[must_use]
    pub fn recall_macro(&self) -> f64 {
        self.mean_of(|scores| scores.recall)
    }

    /// F1 of all decisions together, which for one label per example is the accuracy.
    #[must_use]
    pub fn f1_micro(&self) -> f64 {
        self.accuracy()
    }

    /// Mean F1 over the classes, weighted by their examples.
    #[must_use]
    pub fn f1_weighted(&self) -> f64 {
        let sum: f64 = self
            .per_class()
            .iter()
            .map(|scores| scores.f1 * scores.support as f64)
            .sum();
        if self.total() == 0 {
            0.0
        } else {
            sum / self.total() as f64
        }
    }

    fn mean_of(&self, score: impl Fn(&ClassScores) -> f64) -> f64 {
        mean(self.per_class().iter().map(score), self.classes.len())
    }

    /// Matthews' correlation of true and predicted classes, for any number of classes; 0 where it is undefined.
    ///
    /// # Source
    /// Gorodkin 2004, Comparing two K-category assignments by a K-category correlation coefficient, eq. (8)
    #[must_use]
    pub fn mcc(&self) -> f64 {
        let total = self.total() as f64;
        let sums = |of: &dyn Fn(usize) -> u64| -> Vec<f64> {
            (0..self.classes.len())
                .map(|class| of(class) as f64)
                .collect()
        };
        let truths = sums(&|class| self.truths(class));
        let predictions = sums(&|class| self.predictions(class));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let covariance = self.hits() as f64 * total - dot(&truths, &predictions);
        let spread_predicted = total * total - dot(&predictions, &predictions);
        let spread_true = total * total - dot(&truths, &truths);
        let product = spread_predicted * spread_true;
        if product == 0.0 {
            0.0
        } else {
            covariance / product.sqrt()
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn mean(values: impl Iterator<Item = f64>, n: usize) -> f64 {
    if n == 0 {
        0.0
    } else {
        values.sum::<f64>() / n as f64
    }
}

/// Matthews' correlation of lists of classes; see [`Confusion::mcc`].
#[must_use]
pub fn matthews_corrcoef(truth: &[i64], predicted: &[i64]) -> f64 {
    Confusion::new(truth, predicted).mcc()
}

/// F1 of class 1 against the rest; 0 when class 1 neither occurs nor was predicted.
#[must_use]
pub fn binary_f1(truth: &[i64], predicted: &[i64]) -> f64 {
    let table = Confusion::new(truth, predicted);
    let place = table.classes.iter().position(|&class| class == 1);
    place.map_or(0.0, |place| table.per_class()[place].f1)
}

/// Area under the receiver operating curve: how often a positive scores above a negative, ties counting half.
///
/// `None` when there are no positives or no negatives, or a score is NaN.
///
/// # Examples
/// ```
/// use flametune_eval::metrics::auroc;
///
/// assert_eq!(auroc(&[true, false, true, false], &[0.9, 0.1, 0.4, 0.4]), Some(0.875));
/// ```
#[must_use]
pub fn auroc(positive: &[bool], score: &[f64]) -> Option<f64> {
    let mut pairs: Vec<(f64, bool)> = score
        .iter()
        .copied()
        .zip(positive.iter().copied())
        .collect();
    if pairs.iter().any(|(score, _)| score.is_nan()) {
        return None;
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = pairs.iter().filter(|pair| pair.1).count();
    let negatives = pairs.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let (mut below, mut area) = (0.0, 0.0);
    for tied in pairs.chunk_by(|a, b| a.0 == b.0) {
        let inside = tied.iter().filter(|pair| pair.1).count() as f64;
        let outside = tied.len() as f64 - inside;
        area += inside * (below + 0.5 * outside);
        below += outside;
    }
    Some(area / (positives as f64 * negatives as f64))
}
