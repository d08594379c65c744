/// Removes the stop tokens while the output holds fewer than `min_tokens` tokens.
///
/// # Source
/// - reference: transformers `MinNewTokensLengthLogitsProcessor`; golden `fixtures/sampling`
pub fn min_tokens(logits: &mut [f32], stop_token_ids: &[u32], generated: usize, min_tokens: usize) {
    if generated >= min_tokens {
        return;
    }
    for &token in stop_token_ids {
        if let Some(x) = logits.get_mut(token as usize) {
            *x = f32::NEG_INFINITY;
        }
    }
}
