//! How the factors of LoRA begin.

use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::Mat;
use flametune_quant::BaseLinear;

use crate::base::dense_weight;
use crate::error::Result;
use crate::random::Stream;
use crate::svd;

type Place<'a> = (&'a Device, DType);

/// Normal with deviation `1/r`.
#[expect(clippy::cast_precision_loss, reason = "ranks are small")]
pub(super) fn gaussian(stream: Stream, r: usize, d_in: usize, place: Place<'_>) -> Tensor<2> {
    stream.normal_tensor([r, d_in], 1.0 / r as f64, place)
}

/// Factors with `B·A = 0` and neither of them zero: their rank-`r/2` halves lie in orthogonal
/// subspaces of the rank.
///
/// With `Q` the orthogonal factor of a random `r × r` matrix, `A = (R₁·Q_even)ᵀ / 10` and
/// `B = R₂·Q_odd / 10`, where `R₁` and `R₂` are normal and `Q_even`, `Q_odd` are rows of `Q`.
///
/// # Shapes
/// - returns `A [r, d_in]`, `B [d_out, r]`; `r` is even
///
/// # Source
/// - reference: peft `tuners/lora/layer.py::LoraLayer.orthogonal_init`
pub(crate) fn orthogonal_pair(
    stream: Stream,
    r: usize,
    (d_in, d_out): (usize, usize),
    place: Place<'_>,
) -> (Tensor<2>, Tensor<2>) {
    let half = r / 2;
    let at = |part: u64, i: usize| stream.normal((part << 48) | i as u64);
    let square = faer::Mat::from_fn(r, r, |i, j| at(0, i * r + j));
    let q = square.qr().compute_Q();
    // rows [n, half] times the rows of Q that start at `first`, every second one
    let product = |part: u64, n: usize, first: usize| -> Vec<f64> {
        let mut out = Vec::with_capacity(n * r);
        for row in 0..n {
            for column in 0..r {
                let sum: f64 = (0..half)
                    .map(|k| at(part, row * half + k) * q[(2 * k + first, column)])
                    .sum();
                out.push(sum / 10.0);
            }
        }
        out
    };
    let tensor = |values: Vec<f64>, shape: [usize; 2]| {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounded to the parameters' type"
        )]
        let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
        Tensor::<2>::from_data(TensorData::new(values, shape), place)
    };
    let a = product(1, d_in, 0);
    let mut transposed = vec![0.0; a.len()];
    for i in 0..d_in {
        for j in 0..r {
            transposed[j * d_in + i] = a[i * r + j];
        }
    }
    let b = product(2, d_out, 1);
    (tensor(transposed, [r, d_in]), tensor(b, [d_out, r]))
}

/// The largest singular values and vectors of the weight, `B = U·√(Σ/s)`, `A = √(Σ/s)·Vᵀ`, so that
/// `s·B·A` is the best approximation of rank `r`.
///
/// # Source
/// - Meng et al. 2024, PiSSA, arXiv:2404.02948, §3 eq. (2) and (3)
/// - reference: peft `tuners/lora/layer.py::LoraLayer.pissa_init`; golden `fixtures/peft/init.safetensors`
pub(super) fn pissa(
    base: &BaseLinear,
    r: usize,
    scaling: f64,
    place: Place<'_>,
) -> Result<(Tensor<2>, Tensor<2>)> {
    let (a, b) = svd::best_factors(&svd::to_host(dense_weight(base)), r)?;
    Ok(balanced(&a, &b, scaling, place))
}

/// [`pissa`] by subspace iterations: the weight is decomposed within a random subspace of dimension
/// `r` that is multiplied by `W·Wᵀ` as often as asked.
///
/// # Source
/// - Halko, Martinsson and Tropp 2009, arXiv:0909.4061, algorithms 4.4 and 5.1
/// - reference: `torch.svd_lowrank`
pub(super) fn pissa_niter(
    base: &BaseLinear,
    (r, iterations): (usize, usize),
    scaling: f64,
    stream: Stream,
    place: Place<'_>,
) -> Result<(Tensor<2>, Tensor<2>)> {
    let weight = svd::to_host(dense_weight(base));
    let q = svd::subspace(&weight, r, iterations, stream);
    let (a, b) = svd::best_factors(&(q.transpose() * &weight), r)?;
    Ok(balanced(&a, &(&q * &b), scaling, place))
}

/// Spreads the lengths of the columns of `b` over both factors, and takes the scaling out.
pub(super) fn balanced(
    a: &Mat<f64>,
    b: &Mat<f64>,
    scaling: f64,
    place: Place<'_>,
) -> (Tensor<2>, Tensor<2>) {
    let roots: Vec<f64> = (0..b.ncols())
        .map(|k| {
            let square: f64 = (0..b.nrows()).map(|i| b[(i, k)] * b[(i, k)]).sum();
            (square.sqrt() / scaling).sqrt()
        })
        .collect();
    let a = Mat::from_fn(a.nrows(), a.ncols(), |k, j| a[(k, j)] * roots[k]);
    let b = Mat::from_fn(b.nrows(), b.ncols(), |i, k| {
        if roots[k] > 0.0 {
            b[(i, k)] / (roots[k] * scaling)
        } else {
            0.0
        }
    });
    (svd::to_device(&a, place), svd::to_device(&b, place))
}

/// The first `r` columns of `Q` and rows of `R` of the weight's QR decomposition.
///
/// # Source
/// - Büyükakyüz 2024, OLoRA, arXiv:2406.01775, §3
/// - reference: peft `tuners/lora/layer.py::LoraLayer.olora_init`; golden `fixtures/peft/init.safetensors`
pub(super) fn olora(base: &BaseLinear, r: usize, place: Place<'_>) -> (Tensor<2>, Tensor<2>) {
    let qr = svd::to_host(dense_weight(base)).qr();
    let (q, triangle) = (qr.compute_thin_Q(), qr.thin_R());
    let known = triangle.nrows();
    let a = Mat::from_fn(r, triangle.ncols(), |k, j| {
        if k < known && j >= k {
            triangle[(k, j)]
        } else {
            0.0
        }
    });
    let b = Mat::from_fn(q.nrows(), r, |i, k| if k < known { q[(i, k)] } else { 0.0 });
    (svd::to_device(&a, place), svd::to_device(&b, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn orthogonal_factors_have_no_product_and_are_not_zero() {
        let device = Device::flex();
        let (a, b) = orthogonal_pair(Stream::new(&[4]), 6, (200, 150), (&device, DType::F32));
        let norm = |t: &Tensor<2>| values(t.clone()).iter().map(|x| x * x).sum::<f32>();
        // Rows of Q have length one, so each row of R·Q has three times the variance of a normal
        // number; relative standard errors of sqrt(2 / 600) and sqrt(2 / 450), five of them.
        assert!(
            (norm(&a) / (200.0 * 3.0 / 100.0) - 1.0).abs() < 0.29,
            "{}",
            norm(&a)
        );
        assert!(
            (norm(&b) / (150.0 * 3.0 / 100.0) - 1.0).abs() < 0.34,
            "{}",
            norm(&b)
        );
        // Sums of six products of order 0.01 in f32.
        assert!(values(b.matmul(a)).iter().all(|x| x.abs() < 1e-7));
    }

    #[test]
    fn uniform_and_gaussian_have_their_spread() {
        let device = Device::flex();
        let place = (&device, DType::F32);
        let uniform = values(Stream::new(&[1]).kaiming_uniform([16, 400], place));
        assert!(uniform.iter().all(|x| x.abs() <= 0.05));
        let variance = uniform.iter().map(|x| x * x).sum::<f32>() / 6400.0;
        // (2 · 0.05)² / 12, with a relative standard error of sqrt(0.8 / n) = 0.011.
        assert!((variance / 8.333e-4 - 1.0).abs() < 0.056, "{variance}");
        let gaussian = values(gaussian(Stream::new(&[1]), 16, 400, place));
        let variance = gaussian.iter().map(|x| x * x).sum::<f32>() / 6400.0;
        // 1/16², with a relative standard error of sqrt(2 / n) = 0.018.
        assert!((variance * 256.0 - 1.0).abs() < 0.09, "{variance}");
    }
}
