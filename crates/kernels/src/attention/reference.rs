use burn::tensor::{DType, Tensor, activation};

use super::AttentionMask;
use crate::precision::Precision;

/// A score far below any real one, yet finite, so that a row without keys stays free of NaN.
const HIDDEN: f32 = -1e30;

/// [`attention`] of queries, keys and values rounded as `precision` says.
pub fn attention_with(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: &AttentionMask,
    scale: f64,
    softcap: Option<f64>,
    precision: Precision,
) -> Tensor<4> {
    let rounded = |x: Tensor<4>| match precision {
        Precision::Full => x,
        Precision::Bf16 => {
            let dtype = x.dtype();
            x.cast(DType::BF16).cast(dtype)
        }
    };
    attention(rounded(q), rounded(k), rounded(v), mask, scale, softcap)
}

/// Scaled dot-product attention in plain tensor operations; stores the whole score matrix.
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: &AttentionMask,
    scale: f64,
    softcap: Option<f64>,
) -> Tensor<4> {
    let dtype = q.dtype();
    let device = q.device();
    let [batch, heads, q_len, head_dim] = q.dims();
    let [_, kv_heads, k_len, _] = k.dims();
    let group = heads / kv_heads;
    let rows = group * q_len;

    // The query heads of one key/value head are stacked as rows, so keys are never repeated.
    let q = q
        .cast(DType::F32)
        .reshape([batch, kv_heads, rows, head_dim]);
    let mut scores = q.matmul(k.cast(DType::F32).swap_dims(2, 3)) * scale;
    if let Some(cap) = softcap {
        scores = (scores / cap).tanh() * cap;
    }
    let hidden = mask
        .to_tensor(batch, q_len, k_len, &device)
        .bool_not()
        .repeat_dim(2, group)
        .expand([batch, kv_heads, rows, k_len]);
    let scores = scores.mask_fill(hidden.clone(), HIDDEN);
    let weights = activation::softmax(scores, 3).mask_fill(hidden, 0.0);
    let y = weights.matmul(v.cast(DType::F32));
    y.reshape([batch, heads, q_len, head_dim]).cast(dtype)
}
