/// Adds a bias to the last token of each sequence whose other tokens end `tokens`.
///
/// Sequences that complete with the same token add up.
/// A bias of −∞ removes the token.
///
/// # Source
/// - reference: transformers `SequenceBiasLogitsProcessor`; golden `fixtures/sampling`
/// - differs: two biases for the same sequence add up instead of the last one counting
pub fn sequence_bias(logits: &mut [f32], tokens: &[u32], biases: &[(Vec<u32>, f32)]) {
    for (sequence, bias) in biases {
        add_if_next(logits, tokens, sequence, *bias);
    }
}

/// Adds `bias` to the last token of `sequence` if the tokens before it end `tokens`.
pub(super) fn add_if_next(logits: &mut [f32], tokens: &[u32], sequence: &[u32], bias: f32) {
    if let Some((&last, before)) = sequence.split_last()
        && tokens.ends_with(before)
        && let Some(x) = logits.get_mut(last as usize)
    {
        *x += bias;
    }
}
