//! The room of the output head and its loss.

use super::settings::Settings;
use super::shape::ModelShape;

/// Bytes that a chunk of logits may take, rows that it may have, classes of a tile and partial sums:
/// the constants of the fused operation, `cross_entropy/native.rs` and `flex.rs` in
/// `flametune-kernels`.
const BUDGET: u64 = 64 << 20;
const MAX_ROWS: u64 = 512;
const TILE: u64 = 256;
const MAX_GROUPS: u64 = 16;

/// The bytes that last norm, head and loss take, the head being frozen or trained as a whole.
///
/// The last norm keeps its input, and its output and that output's gradient wait for the backward pass:
/// `3·d_model` numbers a token, and `d_model` for each of the `S` supervised tokens while their
/// gradients are spread out. Logits exist for a chunk of rows at a time, `n = ⌈S / ⌈S/m⌉⌉` of them
/// with `m` as many as 64 MiB hold, 512 at most; `4·n·vocab` bytes, and up to a quarter of the budget
/// for partial sums of gradients.
pub fn head_bytes(shape: &ModelShape, settings: &Settings) -> u64 {
    let tokens = settings.tokens();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count; saturates"
    )]
    let rows = (tokens as f64 * settings.supervised.clamp(0.0, 1.0)).ceil() as u64;
    let width = 4 * shape.d_model as u64;
    let logits = 4 * (shape.vocab as u64).next_multiple_of(TILE);
    let most = (BUDGET / logits.max(1)).clamp(1, MAX_ROWS);
    let chunk = rows.div_ceil(rows.div_ceil(most).max(1));
    let groups = (BUDGET / 4 / (chunk * width).max(1)).clamp(1, MAX_GROUPS);
    width.saturating_mul(3 * tokens + rows) + chunk * (logits + width * (1 + groups))
}
