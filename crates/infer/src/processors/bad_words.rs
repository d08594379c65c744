use super::sequence_bias::add_if_next;

/// Removes the last token of each sequence whose other tokens end `tokens`.
///
/// # Source
/// - reference: transformers `NoBadWordsLogitsProcessor`; golden `fixtures/sampling`
/// - differs: an end-of-sequence token can be forbidden like any other
pub fn bad_words(logits: &mut [f32], tokens: &[u32], sequences: &[Vec<u32>]) {
    for sequence in sequences {
        add_if_next(logits, tokens, sequence, f32::NEG_INFINITY);
    }
}
