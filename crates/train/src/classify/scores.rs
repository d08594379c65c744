//! How well classes are told apart.

use std::fmt;

/// The scores of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassScores {
    /// Of the rows that were called so, the share that are.
    pub precision: f64,
    /// Of the rows that are so, the share that were called so.
    pub recall: f64,
    /// The harmonic mean of the two.
    pub f1: f64,
    /// Rows that are so.
    pub support: usize,
}

/// Which classes rows are of, and which they were said to be.
///
/// # Examples
/// ```
/// use flametune_train::classify::Scores;
///
/// let scores = Scores::of(2, [(0, 0), (0, 1), (1, 1), (1, 1)]);
/// assert_eq!((scores.accuracy(), scores.majority()), (0.75, 0.5));
/// assert!((scores.macro_f1() - (2.0 / 3.0 + 0.8) / 2.0).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scores {
    /// `confusion[class][said]` rows.
    confusion: Vec<Vec<usize>>,
}

impl Scores {
    /// Counts pairs of class and what was said; pairs outside of `classes` are left out.
    pub fn of(classes: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut confusion = vec![vec![0; classes]; classes];
        for (class, said) in pairs {
            if let Some(count) = confusion.get_mut(class).and_then(|row| row.get_mut(said)) {
                *count += 1;
            }
        }
        Self { confusion }
    }

    /// `confusion[class][said]` rows.
    pub fn confusion(&self) -> &[Vec<usize>] {
        &self.confusion
    }

    /// All rows.
    pub fn rows(&self) -> usize {
        self.confusion.iter().flatten().sum()
    }

    /// The share of rows that were called what they are.
    pub fn accuracy(&self) -> f64 {
        let right: usize = (0..self.confusion.len())
            .map(|class| self.confusion[class][class])
            .sum();
        share(right, self.rows())
    }

    /// The accuracy of always naming the most frequent class: what a classifier must beat.
    pub fn majority(&self) -> f64 {
        let most = self.confusion.iter().map(|row| row.iter().sum()).max();
        share(most.unwrap_or(0), self.rows())
    }

    /// The scores of each class; 0 where nothing can be divided by, as scikit-learn has it.
    pub fn classes(&self) -> Vec<ClassScores> {
        let class = |index: usize| {
            let right = self.confusion[index][index];
            let support = self.confusion[index].iter().sum();
            let said: usize = self.confusion.iter().map(|row| row[index]).sum();
            ClassScores {
                precision: share(right, said),
                recall: share(right, support),
                f1: share(2 * right, support + said),
                support,
            }
        };
        (0..self.confusion.len()).map(class).collect()
    }

    /// The mean F1 of the classes.
    pub fn macro_f1(&self) -> f64 {
        let classes = self.classes();
        let sum: f64 = classes.iter().map(|class| class.f1).sum();
        #[expect(clippy::cast_precision_loss, reason = "a number of classes")]
        let mean = sum / classes.len().max(1) as f64;
        mean
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share for people to read")]
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "accuracy {:.4}, macro F1 {:.4}, always the most frequent class {:.4} ({} rows)",
            self.accuracy(),
            self.macro_f1(),
            self.majority(),
            self.rows()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_scikit_learn() {
        // sklearn.metrics.precision_recall_fscore_support([0,0,0,1,1,2], [0,0,1,1,2,1])
        let scores = Scores::of(3, [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 1)]);
        let classes = scores.classes();
        let expected = [
            (1.0, 2.0 / 3.0, 0.8, 3),
            (1.0 / 3.0, 0.5, 0.4, 2),
            (0.0, 0.0, 0.0, 1),
        ];
        for (got, (precision, recall, f1, support)) in classes.iter().zip(expected) {
            assert!((got.precision - precision).abs() < 1e-12);
            assert!((got.recall - recall).abs() < 1e-12);
            assert!((got.f1 - f1).abs() < 1e-12);
            assert_eq!(got.support, support);
        }
        assert!((scores.macro_f1() - 0.4).abs() < 1e-12);
        assert!((scores.accuracy() - 0.5).abs() < 1e-12);
        assert!((scores.majority() - 0.5).abs() < 1e-12);
        assert_eq!(scores.rows(), 6);
    }

    #[test]
    fn no_rows_score_nothing() {
        let scores = Scores::of(2, []);
        assert_eq!(
            (scores.accuracy(), scores.macro_f1(), scores.majority()),
            (0.0, 0.0, 0.0)
        );
    }
}
