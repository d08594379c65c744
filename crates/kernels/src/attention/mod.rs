mod backward;
mod decode;
mod forward;
mod gradient;
mod heads;
mod mask;
mod pack;
mod paged;
pub(crate) mod reference;
mod softmax;
#[cfg(test)]
mod tests;
mod visible;

pub use mask::AttentionMask;
pub use paged::{PagedKeysValues, PagedScores, PagedSequence};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use burn_flex::Flex;

use crate::cpu;
use crate::precision::Precision;

/// The parts of an attention that are not tensors.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    mask: AttentionMask,
    scale: f32,
    softcap: Option<f32>,
    precision: Precision,
}

impl Attention {
    /// What the queries are multiplied with: the scale, over the soft cap where there is one.
    fn factor(&self) -> f32 {
        self.softcap.map_or(self.scale, |cap| self.scale / cap)
    }
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait AttentionOps: Backend {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        attention: Attention,
    ) -> FloatTensor<Self>;
}

impl AttentionOps for Flex {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        attention: Attention,
    ) -> FloatTensor<Self> {
        let [q, k, v] = match attention.precision {
            Precision::Full => [q, k, v],
            Precision::Bf16 => [q, k, v].map(heads::rounded_heads),
        };
        forward::forward(&attention, q, k, v).0
    }
}

/// Scaled dot-product attention with grouped-query heads.
///
/// `y = softmax(cap(scale · q·kᵀ) + mask)·v`, with `cap(s) = softcap · tanh(s / softcap)` where a
/// soft cap is given. Query head `h` reads key/value head `h / (heads / kv_heads)`. A query that
/// sees no key yields zeros. Computed in f32.
///
/// On the CPU the scores are never stored: each task holds those of a few queries and one block
/// of keys, and the backward pass computes them again. Strided views of a key/value cache are
/// read where they lie, and the result's memory is laid out so that joining its heads
/// (`swap_dims(1, 2)`, `reshape`) moves nothing.
///
/// # Shapes
/// - `q`: `[batch, heads, q_len, head_dim]`
/// - `k`, `v`: `[batch, kv_heads, k_len, head_dim]`, `kv_heads` divides `heads`
/// - returns `[batch, heads, q_len, head_dim]`, dtype of `q`
///
/// # Panics
/// When the shapes disagree, or the mask has segments for fewer rows than `batch`.
///
/// # Source
/// - Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762, eq. (1)
/// - Ainslie et al. 2023, GQA, arXiv:2305.13245, §2.2
/// - running softmax: Milakov and Gimelshein 2018, arXiv:1805.02867; blocks and recomputation:
///   Dao et al. 2022, FlashAttention, arXiv:2205.14135, algorithms 1 and 4
/// - soft cap: Gemma 2, arXiv:2408.00118, §2
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: &AttentionMask,
    scale: f64,
    softcap: Option<f64>,
) -> Tensor<4> {
    attention_with(q, k, v, mask, scale, softcap, Precision::Full)
}

/// [`attention`] between layers that multiply as `precision` says.
///
/// With [`Precision::Bf16`] queries, keys and values are rounded to bf16 before they meet; scores,
/// weights and sums are f32. On the CPU the backward pass keeps them, and the output, in bf16: half
/// the memory, and gradients as exact as the products that they enter.
///
/// # Panics
/// As [`attention`].
pub fn attention_with(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: &AttentionMask,
    scale: f64,
    softcap: Option<f64>,
    precision: Precision,
) -> Tensor<4> {
    let [batch, heads, _, head_dim] = q.dims();
    let [_, kv_heads, k_len, _] = k.dims();
    assert_eq!(
        k.dims(),
        [batch, kv_heads, k_len, head_dim],
        "attention: k does not fit q"
    );
    assert_eq!(v.dims(), k.dims(), "attention: k and v must have one shape");
    assert!(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "attention: {kv_heads} key heads must divide {heads} query heads"
    );
    assert!(
        mask.segments().is_none_or(|rows| rows.len() >= batch),
        "attention: the mask has segments for fewer rows than the batch of {batch}"
    );
    if !(cpu::takes(&q) && cpu::takes(&k) && cpu::takes(&v)) {
        return reference::attention_with(q, k, v, mask, scale, softcap, precision);
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "rounded to the compute type"
    )]
    let attention = Attention {
        mask: mask.clone(),
        scale: scale as f32,
        softcap: softcap.map(|cap| cap as f32),
        precision,
    };
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::attention_forward(q, k, v, attention))
}
