//! Singular values and orthogonal factors of matrices, on the host.

use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::Mat;

use crate::error::{Error, Result};
use crate::random::Stream;

/// A matrix as 64-bit numbers on the host.
pub(crate) fn to_host(matrix: Tensor<2>) -> Mat<f64> {
    let [rows, columns] = matrix.dims();
    let values: Vec<f64> = matrix.into_data().iter::<f64>().collect();
    Mat::from_fn(rows, columns, |i, j| values[i * columns + j])
}

/// A matrix on a device, rounded to `dtype`.
pub(crate) fn to_device(matrix: &Mat<f64>, place: (&Device, DType)) -> Tensor<2> {
    let (rows, columns) = (matrix.nrows(), matrix.ncols());
    let mut values = Vec::with_capacity(rows * columns);
    for i in 0..rows {
        for j in 0..columns {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "rounded to the wanted type"
            )]
            values.push(matrix[(i, j)] as f32);
        }
    }
    Tensor::from_data(TensorData::new(values, [rows, columns]), place)
}

/// An orthonormal basis, `[rows, width]`, of nearly the space of the `width` largest singular
/// values: a random subspace, multiplied by `M·Mᵀ` as often as asked.
///
/// # Source
/// - Halko, Martinsson and Tropp 2009, arXiv:0909.4061, algorithm 4.4
/// - reference: `torch.svd_lowrank`
pub(crate) fn subspace(
    matrix: &Mat<f64>,
    width: usize,
    iterations: usize,
    stream: Stream,
) -> Mat<f64> {
    let start = Mat::from_fn(matrix.ncols(), width, |i, j| {
        stream.normal((i * width + j) as u64)
    });
    let mut q = (matrix * &start).qr().compute_thin_Q();
    for _ in 0..iterations {
        let back = (matrix.transpose() * &q).qr().compute_thin_Q();
        q = (matrix * &back).qr().compute_thin_Q();
    }
    q
}

/// The `count` largest singular values, and the right singular vectors as rows: by [`subspace`] of
/// twice as many dimensions where the matrix is larger than that.
///
/// # Errors
/// [`Error::Incompatible`] when the decomposition does not converge.
pub(crate) fn largest(
    matrix: &Mat<f64>,
    count: usize,
    iterations: usize,
    stream: Stream,
) -> Result<(Vec<f64>, Mat<f64>)> {
    let width = 2 * count;
    let (a, b) = if width < matrix.nrows().min(matrix.ncols()) {
        let q = subspace(matrix, width, iterations, stream);
        best_factors(&(q.transpose() * matrix), count)?
    } else {
        best_factors(matrix, count)?
    };
    let lengths = (0..count).map(|k| b.col(k).norm_l2()).collect();
    Ok((lengths, a))
}

/// The best factors of rank `r`: `B = U·Σ`, `A = Vᵀ` of the largest singular values, padded with
/// zeros where the matrix has fewer than `r`.
///
/// # Errors
/// [`Error::Incompatible`] when the decomposition does not converge.
pub(crate) fn best_factors(matrix: &Mat<f64>, r: usize) -> Result<(Mat<f64>, Mat<f64>)> {
    let svd = matrix.thin_svd().map_err(|_| Error::Incompatible {
        combination_type: "svd",
        reason: "the decomposition does not converge".to_owned(),
    })?;
    let (u, v) = (svd.U(), svd.V());
    let s = svd.S().column_vector();
    let known = s.nrows();
    let b = Mat::from_fn(matrix.nrows(), r, |i, k| {
        if k < known { u[(i, k)] * s[k] } else { 0.0 }
    });
    let a = Mat::from_fn(
        r,
        matrix.ncols(),
        |k, j| {
            if k < known { v[(j, k)] } else { 0.0 }
        },
    );
    Ok((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_of_full_rank_give_the_matrix_back() {
        let matrix = Mat::from_fn(3, 4, |i, j| (i * 7 + j * j) as f64 - 5.0);
        let (a, b) = best_factors(&matrix, 5).unwrap();
        let product = &b * &a;
        for i in 0..3 {
            for j in 0..4 {
                assert!((product[(i, j)] - matrix[(i, j)]).abs() < 1e-12);
            }
        }
        assert!((0..4).all(|j| a[(4, j)] == 0.0));
    }
}
