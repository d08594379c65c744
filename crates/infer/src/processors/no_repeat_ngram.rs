/// Removes every token that would complete an n-gram which `tokens` already holds; 0 removes none.
///
/// # Source
/// - reference: transformers `NoRepeatNGramLogitsProcessor`; golden `fixtures/sampling`
pub fn no_repeat_ngram(logits: &mut [f32], tokens: &[u32], size: usize) {
    if size == 0 || tokens.len() < size {
        return;
    }
    let prefix = &tokens[tokens.len() + 1 - size..];
    for ngram in tokens.windows(size) {
        if let Some((&last, before)) = ngram.split_last()
            && before == prefix
            && let Some(x) = logits.get_mut(last as usize)
        {
            *x = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banned(tokens: &[u32], size: usize) -> Vec<usize> {
        let mut logits = [0.0; 6];
        no_repeat_ngram(&mut logits, tokens, size);
        (0..6).filter(|&i| logits[i] == f32::NEG_INFINITY).collect()
    }

    #[test]
    fn bans_what_followed_the_same_words_before() {
        assert_eq!(banned(&[1, 2, 3, 1, 4, 1], 2), [2, 4]);
        assert_eq!(banned(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(banned(&[1, 1], 2), [1]);
        assert_eq!(banned(&[3, 5], 1), [3, 5]);
        assert!(banned(&[1, 2], 3).is_empty());
        assert!(banned(&[1, 2, 1], 0).is_empty());
        assert!(banned(&[7, 9, 7], 2).is_empty());
    }
}
