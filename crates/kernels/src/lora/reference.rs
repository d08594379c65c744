use burn::tensor::{DType, Tensor};

use super::{LoraBase, LoraFactors, LoraSegment, checked_rows};
use crate::linear::linear;

/// `y = base(x) + scaling · (dropout(x)·Aᵀ)·Bᵀ` in plain tensor operations: the definition of
/// correct.
pub fn lora_linear(x: Tensor<2>, base: LoraBase, factors: LoraFactors) -> Tensor<2> {
    let y = base.output(&x);
    let update = update(x, factors, None);
    let dtype = y.dtype();
    y + update.cast(dtype)
}

/// [`lora_linear`] with another adapter, or none, for some of the rows.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature of the operation itself"
)]
pub fn lora_segmented(x: Tensor<2>, base: LoraBase, segments: Vec<LoraSegment>) -> Tensor<2> {
    checked_rows(&segments, x.dims()[0]);
    let mut y = base.output(&x);
    let dtype = y.dtype();
    for LoraSegment { rows, factors } in &segments {
        for range in rows.iter().filter(|range| !range.is_empty()) {
            let numbers: Vec<usize> = range.clone().collect();
            let part = x.clone().narrow(0, range.start, range.len());
            let update = update(part, factors.clone(), Some(&numbers));
            let old = y.clone().narrow(0, range.start, range.len());
            let width = y.dims()[1];
            y = y.slice_assign([range.clone(), 0..width], old + update.cast(dtype));
        }
    }
    y
}

fn update(
    x: Tensor<2>,
    LoraFactors {
        a,
        b,
        scaling,
        dropout,
    }: LoraFactors,
    rows: Option<&[usize]>,
) -> Tensor<2> {
    let x = match dropout {
        Some(dropout) => dropout.apply(x, rows),
        None => x,
    };
    // Wider inputs stay as they are, narrower ones are widened.
    let x = if x.dtype() == DType::F32 {
        x
    } else {
        x.cast(a.dtype())
    };
    linear(linear(x, a, None), b, None) * scaling
}
