use crate::history::History;

/// Makes every token of prompt and output less likely: positive logits are divided by `penalty`,
/// negative ones multiplied; 1 changes nothing, below 1 favours repetition.
///
/// # Source
/// - Keskar et al. 2019, CTRL, arXiv:1909.05858, §4.1
/// - reference: transformers `RepetitionPenaltyLogitsProcessor`; golden `fixtures/sampling`
pub fn repetition_penalty(logits: &mut [f32], history: &History, penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    for &token in history.distinct() {
        if let Some(x) = logits.get_mut(token as usize) {
            *x = if *x < 0.0 { *x * penalty } else { *x / penalty };
        }
    }
}
