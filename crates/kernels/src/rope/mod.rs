mod backward;
mod flex;
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use burn_flex::Flex;

use crate::cpu;

#[backend_extension(Flex, Autodiff)]
pub(crate) trait RopeOps: Backend {
    fn rope_forward(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl RopeOps for Flex {
    fn rope_forward(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        flex::rotate(x, cos, sin, false)
    }
}

/// Rotary position embedding, rotate-half layout, on the first `rot_dim` channels of each head.
///
/// With `h = rot_dim / 2` and, for `i < h`, the pair `(x[i], x[i + h])`:
/// `y[i] = x[i]·cos[i] − x[i + h]·sin[i]`, `y[i + h] = x[i + h]·cos[i + h] + x[i]·sin[i + h]`.
/// Channels from `rot_dim` on pass through. Computed in f32.
///
/// # Shapes
/// - `x`: `[batch, heads, seq, head_dim]`
/// - `cos`, `sin`: `[batch or 1, seq, rot_dim]`, `rot_dim` even and at most `head_dim`
/// - returns the shape and dtype of `x`
///
/// The tables are constants: no gradient reaches `cos` and `sin`.
///
/// # Panics
/// When the shapes disagree with the above.
///
/// # Source
/// - Su et al. 2021, RoFormer, arXiv:2104.09864, eq. (34)
/// - reference: transformers `modeling_llama.py::apply_rotary_pos_emb`
pub fn rope(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    let [batch, _, seq, head_dim] = x.dims();
    let [table_batch, table_seq, rot_dim] = cos.dims();
    assert_eq!(
        sin.dims(),
        cos.dims(),
        "rope: cos and sin must have one shape"
    );
    assert!(
        (table_batch == batch || table_batch == 1) && table_seq == seq,
        "rope: tables of [{table_batch}, {table_seq}, ..] do not fit x of batch {batch}, seq {seq}"
    );
    assert!(
        rot_dim <= head_dim && rot_dim.is_multiple_of(2),
        "rope: rot_dim {rot_dim} must be even and at most head_dim {head_dim}"
    );
    if cpu::takes(&x) && cpu::takes(&cos) && cpu::takes(&sin) {
        let (x, cos, sin) = (x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
        Tensor::from_dispatch(Dispatch::rope_forward(x, cos, sin))
    } else {
        reference::rope(x, cos, sin)
    }
}
