//! What a layer keeps for its backward pass, and the room that the pass works in.

use flametune_lm::{BlockStyle, QkNorm};

use super::settings::{Magnitudes, Settings, Trained};
use super::shape::{Input, ModelShape, Projection};

/// The bytes that one layer keeps for its backward pass.
///
/// For every token, in f32, with `d = d_model`, `q` and `kv` the widths of the query and key heads,
/// `f = d_ff`:
///
/// | kept by | numbers |
/// |---|---|
/// | the norms before attention and MLP: their inputs | `2·d` |
/// | attention: q and k after rotation, v, y, the sums of scores | `2·q + 2·kv + n_heads` |
/// | the gate: gate and up | `2·f` |
/// | linear layers whose weight or A is trained: their inputs, `d` before attention, nothing for o (y is kept already), `d` before the MLP, `f` before down | up to `2·d + f` |
/// | adapters: `x·Aᵀ` | `r` each |
/// | DoRA: outputs before the gain | `d_out` each |
/// | DoRA with dropout: inputs after it and its masks, in place of the inputs above | `2·d_in` each |
/// | norms of queries and keys: their inputs | `q + kv` |
/// | norms after attention and MLP (sandwich, post-norm): their inputs | `2·d` |
///
/// Frozen and packed weights are kept as they are, sums and scalings keep nothing. The mask of
/// dropout is a function of its place and is drawn again, but for DoRA.
/// Tensors that several operations keep are one.
///
/// # Source
/// - the states of `backward.rs` of each operation in `flametune-kernels`
pub fn layer_bytes(shape: &ModelShape, settings: &Settings) -> u64 {
    let (d, f, q, kv) = (shape.d_model, shape.d_ff, shape.q_width(), shape.kv_width());
    let trained = &settings.trained;
    let reads = |input: Input| {
        let mut inputs = shape.projections().iter().filter(|p| p.input() == input);
        inputs.any(|projection| trained.keeps_input(*projection))
    };
    let kept = |input: Input, width: usize| if reads(input) { width } else { 0 };
    let before_attention = kept(Input::BeforeAttention, d);
    let before_mlp = kept(Input::BeforeMlp, d);
    // The residual stream is what norms keep; without norms there, linear layers may keep it.
    let residual = match shape.block {
        BlockStyle::PreNorm => 2 * d + before_attention + before_mlp,
        BlockStyle::Sandwich => 4 * d + before_attention + before_mlp,
        BlockStyle::PostNorm => 2 * d + before_attention + before_mlp,
        // One norm, and one input of attention and MLP.
        BlockStyle::Parallel => d + before_attention.max(before_mlp),
    };
    let qk_norm = match shape.qk_norm {
        QkNorm::None => 0,
        QkNorm::PerHead | QkNorm::Full => q + kv,
    };
    let attention = 2 * q + 2 * kv + shape.n_heads;
    let mlp = 2 * f + kept(Input::Gated, f);
    let adapters: usize = match trained {
        Trained::LowRank(adapter) => {
            let each = |projection: &Projection| {
                let [d_out, d_in] = shape.dims(*projection);
                let dora = match adapter.magnitudes {
                    Magnitudes::None => 0,
                    Magnitudes::Trained => d_out,
                    Magnitudes::WithDropout => d_out + 2 * d_in,
                };
                adapter.r + dora
            };
            adapter.projections.iter().map(each).sum()
        }
        Trained::Everything => 0,
    };
    let numbers = residual + qk_norm + attention + mlp + adapters;
    settings.tokens().saturating_mul(4 * numbers as u64)
}

/// The room that the backward pass works in, over what is kept.
///
/// In the MLP the gradients of gate, up and their product meet that of the residual stream and of
/// the input: `3·f + 2·d` numbers a token. In attention those of q, and of k and v for every query
/// head before these are added up, meet that of y and of the residual stream: `4·q + d`.
pub fn working_bytes(shape: &ModelShape, settings: &Settings) -> u64 {
    let mlp = 3 * shape.d_ff + 2 * shape.d_model;
    let attention = 4 * shape.q_width() + shape.d_model;
    settings
        .tokens()
        .saturating_mul(4 * mlp.max(attention) as u64)
}
