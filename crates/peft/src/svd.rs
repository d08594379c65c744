//! Singular values and orthogonal factors of matrices, on the host.

use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::Mat;

use crate::error::{Error, Result};

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
