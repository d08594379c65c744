//! The norms of DoRA, from products with the rank as one side.

use burn::tensor::{DType, Tensor};
use flametune_kernels::linear;
use flametune_quant::BaseLinear;

use crate::base::{cast, constant, dense_weight};

/// Numbers of a matrix that are there in f32 at a time.
const BLOCK: usize = 1 << 20;

/// `‖W‖²` of each row of a layer's weight, `[d_out]`, in f32.
///
/// The only quantity of DoRA that needs the weight itself; it is computed once for a frozen base,
/// block by block, where the weight is no packed one.
pub(super) fn squared_row_norms(base: &BaseLinear) -> Tensor<1> {
    let blocks = blocks(dense_weight(base));
    let sums = blocks.map(|block| block.powi_scalar(2).sum_dim(1).reshape([-1]));
    Tensor::cat(sums.collect(), 0)
}

/// `‖E‖²` of each column of a table, `[width]`, in f32.
pub(super) fn squared_column_norms(table: Tensor<2>) -> Tensor<1> {
    let zeros = Tensor::zeros([table.dims()[1]], (&table.device(), DType::F32));
    blocks(table).fold(zeros, |sum, block| {
        sum + block.powi_scalar(2).sum_dim(0).reshape([-1])
    })
}

/// `A·E`, with a block of the table in f32 at a time.
///
/// # Shapes
/// - `a`: `[r, vocab]`, `table`: `[vocab, width]`, returns `[r, width]`
pub(super) fn table_product(a: &Tensor<2>, table: Tensor<2>) -> Tensor<2> {
    let zeros = Tensor::zeros([a.dims()[0], table.dims()[1]], (&a.device(), a.dtype()));
    let mut first = 0;
    blocks(table).fold(zeros, |sum, block| {
        let rows = block.dims()[0];
        let columns = a.clone().narrow(1, first, rows);
        first += rows;
        sum + columns.matmul(block)
    })
}

/// The rows of a matrix in blocks of f32, as constants.
fn blocks(matrix: Tensor<2>) -> impl Iterator<Item = Tensor<2>> {
    let matrix = constant(matrix);
    let [rows, width] = matrix.dims();
    let step = (BLOCK / width.max(1)).max(1);
    (0..rows).step_by(step).map(move |first| {
        let block = matrix.clone().narrow(0, first, step.min(rows - first));
        cast(block, DType::F32)
    })
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
    let (a, b) = (cast(constant(a), DType::F32), cast(constant(b), DType::F32));
    let wa = cast(constant(product(a.clone())), DType::F32).transpose();
    let gram = linear(a.clone(), a, None);
    let cross = (wa * b.clone()).sum_dim(1);
    let own = (linear(b.clone(), gram, None) * b).sum_dim(1);
    let added = cross * (2.0 * scaling) + own * (scaling * scaling);
    // Rounding may leave a tiny negative number where a row vanishes.
    constant((squares + added.reshape([-1])).clamp_min(0.0).sqrt())
}
