//! The norms of DoRA, from products with the rank as one side.

use burn::tensor::{DType, Tensor};
use flametune_kernels::linear;
use flametune_quant::BaseLinear;

use crate::base::{cast, dense_weight};

/// `‖W‖²` of each row of a layer's weight, `[d_out]`, in f32.
///
/// The only quantity of DoRA that needs the weight itself; it is computed once for a frozen base.
pub(super) fn squared_row_norms(base: &BaseLinear) -> Tensor<1> {
    squared_norms(dense_weight(base), 1)
}

/// The sums of squares of a matrix over one of its dimensions, in f32.
pub(super) fn squared_norms(matrix: Tensor<2>, dim: usize) -> Tensor<1> {
    let matrix = cast(matrix.detach(), DType::F32);
    matrix.powi_scalar(2).sum_dim(dim).reshape([-1])
}

/// `‖W + s·B·A‖` of each row of `W`, without building `W + s·B·A`.
///
/// `‖W + s·B·A‖² = ‖W‖² + 2s · rowsum((W·Aᵀ) ∘ B) + s² · rowsum((B·A·Aᵀ) ∘ B)`
///
/// # Shapes
/// - `squares`: `‖W‖²`, `[d_out]`; `a`: `[r, d_in]`; `b`: `[d_out, r]`
/// - `product`: `[r, d_in] → [r, d_out]`, the rows of `A` through the layer: `A·Wᵀ`
///
/// # Source
/// - Liu et al. 2024, DoRA, arXiv:2402.09353, §4.3: the norm is a constant for the gradient
pub(super) fn adapted_norms(
    squares: Tensor<1>,
    product: impl FnOnce(Tensor<2>) -> Tensor<2>,
    a: Tensor<2>,
    b: Tensor<2>,
    scaling: f64,
) -> Tensor<1> {
    let (a, b) = (cast(a, DType::F32), cast(b, DType::F32));
    let wa = cast(product(a.clone()).detach(), DType::F32).transpose();
    let gram = linear(a.clone(), a, None);
    let cross = (wa * b.clone()).sum_dim(1);
    let own = (linear(b.clone(), gram, None) * b).sum_dim(1);
    let added = cross * (2.0 * scaling) + own * (scaling * scaling);
    // Rounding may leave a tiny negative number where a row vanishes.
    (squares + added.reshape([-1]))
        .clamp_min(0.0)
        .sqrt()
        .detach()
}
