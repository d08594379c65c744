//! The principal directions of rows that come in batches.

use faer::Mat;

use crate::error::Result;
use crate::random::Stream;
use crate::svd;

/// Multiplications with `M·Mᵀ` in a decomposition.
const ITERATIONS: usize = 4;

/// The directions in which rows vary most, without keeping the rows.
///
/// After each batch they are the right singular vectors of the old ones, each as long as its singular
/// value, above the rows of the batch around their mean, and one row for how far the means are apart.
///
/// # Source
/// - Ross et al. 2008, Incremental Learning for Robust Visual Tracking, IJCV 77
/// - reference: peft `utils/incremental_pca.py`
#[derive(Debug, Clone)]
pub(super) struct IncrementalPca {
    count: usize,
    stream: Stream,
    seen: f64,
    mean: Vec<f64>,
    /// The sum over all columns of the squared distances from their means.
    spread: f64,
    /// The directions, one a row, and their singular values; none before the first batch.
    pub(super) found: Option<(Vec<f64>, Mat<f64>)>,
}

impl IncrementalPca {
    /// For `count` directions; `stream` chooses where decompositions begin.
    pub(super) fn new(count: usize, stream: Stream) -> Self {
        Self {
            count,
            stream,
            seen: 0.0,
            mean: Vec::new(),
            spread: 0.0,
            found: None,
        }
    }

    /// Takes a batch of rows in; nothing happens when they are fewer than the directions.
    ///
    /// Returns the cosine of each direction with the one before, from the second batch on.
    ///
    /// # Errors
    /// When the decomposition does not converge.
    #[expect(clippy::cast_precision_loss, reason = "numbers of tokens")]
    pub(super) fn add(&mut self, rows: &Mat<f64>) -> Result<Option<Vec<f64>>> {
        let (n, width) = (rows.nrows(), rows.ncols());
        if n < self.count {
            return Ok(None);
        }
        let new = n as f64;
        let total = self.seen + new;
        let batch_mean: Vec<f64> = (0..width)
            .map(|j| rows.col(j).iter().sum::<f64>() / new)
            .collect();
        let centred = Mat::from_fn(n, width, |i, j| rows[(i, j)] - batch_mean[j]);
        self.spread += centred.squared_norm_l2();
        let stacked = match &self.found {
            None => centred,
            Some((lengths, directions)) => {
                let apart = |j: usize| self.mean[j] - batch_mean[j];
                let weight = self.seen * new / total;
                let distance: f64 = (0..width).map(|j| apart(j).powi(2)).sum();
                self.spread += weight * distance;
                let known = lengths.len();
                Mat::from_fn(known + n + 1, width, |i, j| {
                    if i < known {
                        lengths[i] * directions[(i, j)]
                    } else if i < known + n {
                        centred[(i - known, j)]
                    } else {
                        weight.sqrt() * apart(j)
                    }
                })
            }
        };
        let (lengths, mut directions) =
            svd::largest(&stacked, self.count, ITERATIONS, self.stream)?;
        fix_signs(&mut directions);
        self.mean = match self.mean.as_slice() {
            [] => batch_mean,
            old => (0..width)
                .map(|j| (old[j] * self.seen + batch_mean[j] * new) / total)
                .collect(),
        };
        self.seen = total;
        let before = self.found.replace((lengths, directions));
        Ok(before
            .zip(self.found.as_ref())
            .map(|((_, old), (_, new))| (0..self.count).map(|k| cosine(&old, new, k)).collect()))
    }

    /// The part of the variance that lies in each direction.
    pub(super) fn explained(&self) -> Vec<f64> {
        let lengths = self.found.iter().flat_map(|(lengths, _)| lengths);
        let spread = self.spread.max(f64::MIN_POSITIVE);
        lengths.map(|length| length * length / spread).collect()
    }
}

/// Turns every row so that its largest number is positive.
fn fix_signs(rows: &mut Mat<f64>) {
    for k in 0..rows.nrows() {
        let largest = (0..rows.ncols())
            .map(|j| rows[(k, j)])
            .fold(
                0.0,
                |largest: f64, x| if x.abs() > largest.abs() { x } else { largest },
            );
        if largest < 0.0 {
            for j in 0..rows.ncols() {
                rows[(k, j)] = -rows[(k, j)];
            }
        }
    }
}

/// The cosine between the rows number `k` of two matrices.
fn cosine(a: &Mat<f64>, b: &Mat<f64>, k: usize) -> f64 {
    let (a, b) = (a.row(k), b.row(k));
    let product: f64 = a.iter().zip(b.iter()).map(|(x, y)| x * y).sum();
    product / (a.norm_l2() * b.norm_l2()).max(1e-8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, width: usize, salt: u64) -> Mat<f64> {
        let stream = Stream::new(&[salt]);
        // Columns of different spread around different means.
        Mat::from_fn(n, width, |i, j| {
            let x = stream.normal((i * width + j) as u64);
            x * (width - j) as f64 + j as f64 + salt as f64 * 0.3
        })
    }

    #[test]
    fn batches_give_what_all_rows_at_once_give() {
        let (width, n) = (6, 40);
        let batches: Vec<Mat<f64>> = (0..3).map(|salt| rows(n, width, salt)).collect();
        // As many directions as columns, so that nothing is lost between batches.
        let mut pca = IncrementalPca::new(width, Stream::new(&[7]));
        assert_eq!(pca.add(&batches[0]).unwrap(), None);
        for batch in &batches[1..] {
            let cosines = pca.add(batch).unwrap().unwrap();
            assert!(cosines.iter().all(|c| c.abs() <= 1.0 + 1e-12));
        }
        let all = Mat::from_fn(3 * n, width, |i, j| batches[i / n][(i % n, j)]);
        let mean = |j: usize| all.col(j).iter().sum::<f64>() / (3 * n) as f64;
        let centred = Mat::from_fn(3 * n, width, |i, j| all[(i, j)] - mean(j));
        let (lengths, mut directions) =
            svd::largest(&centred, width, ITERATIONS, Stream::new(&[8])).unwrap();
        fix_signs(&mut directions);
        let (got_lengths, got) = pca.found.as_ref().unwrap();
        for k in 0..width {
            assert!((got_lengths[k] / lengths[k] - 1.0).abs() < 1e-10, "{k}");
            for j in 0..width {
                assert!((got[(k, j)] - directions[(k, j)]).abs() < 1e-8, "{k} {j}");
            }
        }
        let explained: f64 = pca.explained().iter().sum();
        assert!((explained - 1.0).abs() < 1e-10, "{explained}");
    }

    #[test]
    fn too_few_rows_leave_everything_as_it_was() {
        let mut pca = IncrementalPca::new(5, Stream::new(&[1]));
        assert_eq!(pca.add(&rows(4, 6, 1)).unwrap(), None);
        assert!(pca.found.is_none() && pca.explained().is_empty());
    }
}
