use crate::history::History;

/// Subtracts `presence + count·frequency` from each token that the output holds `count` times.
///
/// The prompt does not count; negative penalties favour repetition.
///
/// # Source
/// - OpenAI API, `presence_penalty` and `frequency_penalty`
/// - reference: vLLM `apply_penalties`
pub fn occurrence_penalties(logits: &mut [f32], history: &History, presence: f32, frequency: f32) {
    if presence == 0.0 && frequency == 0.0 {
        return;
    }
    for (token, count) in history.output_counts() {
        if let Some(x) = logits.get_mut(token as usize) {
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^24")]
            let count = count as f32;
            *x -= frequency * count;
            *x -= presence;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_output_counts_and_frequency_counts_it() {
        let mut history = History::new(&[0, 0, 1]);
        history.push(1);
        history.push(2);
        history.push(2);
        history.push(9);
        let mut logits = [1.0, 1.0, 1.0, 1.0];
        occurrence_penalties(&mut logits, &history, 0.5, 0.25);
        assert_eq!(logits, [1.0, 0.25, 0.0, 1.0]);
    }
}
