//! Log-probabilities and values of sampled tokens, without gradients.

use burn::tensor::Tensor;
use flametune_data::{Collator, EncodedExample};
use flametune_kernels::in_pool;
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;

use super::rollout::Completion;
use crate::error::{Error, Result};
use crate::head::ScalarHead;
use crate::host::numbers;
use crate::rewards::completed;
use crate::sequences::{Sequence, SequenceBatch};

/// Completions as a batch.
pub(super) fn sequences(completions: &[&Completion], collator: &Collator) -> Result<SequenceBatch> {
    let examples: Vec<EncodedExample> = completions
        .iter()
        .map(|completion| completed(&completion.prompt, &completion.tokens))
        .collect();
    let sequences: Vec<Sequence<'_>> = examples
        .iter()
        .map(|example| Sequence {
            example,
            with_prompt: false,
        })
        .collect();
    SequenceBatch::new(&sequences, collator, None)
}

/// The values of the states before the tokens of all answers, `[tokens]`.
pub(super) fn values(head: &ScalarHead, sequences: &SequenceBatch, hidden: Tensor<3>) -> Tensor<1> {
    let [batch, seq, width] = hidden.dims();
    sequences.of_answers(head.forward(hidden.reshape([batch * seq, width])))
}

/// Numbers of the tokens of each completion.
pub(super) type PerToken = Vec<Vec<f32>>;

/// Log-probabilities of the tokens of each completion under the adapters of `pass`, and values with a
/// head; `lm` has no autodiff.
pub(super) fn measure(
    lm: &CausalLm,
    head: Option<&ScalarHead>,
    completions: &[Completion],
    pass: &AdapterPass,
    (collator, size): (&Collator, usize),
) -> Result<(PerToken, PerToken)> {
    let (mut logps, mut found) = (Vec::new(), Vec::new());
    for chunk in completions.chunks(size.max(1)) {
        let members: Vec<&Completion> = chunk.iter().collect();
        let batch = sequences(&members, collator)?;
        let (own, states) = in_pool(|| {
            let hidden = lm.forward(batch.tokens(), None, pass)?;
            let states = head.map(|head| numbers(&values(head, &batch, hidden.clone())));
            let own = numbers(&batch.of_answers(batch.logps(lm, hidden, pass)?));
            Ok::<_, Error>((own, states))
        })?;
        found.extend(states.iter().flat_map(|flat| split(flat, chunk)));
        logps.extend(split(&own, chunk));
    }
    Ok((logps, found))
}

/// The numbers of each completion.
fn split(flat: &[f32], completions: &[Completion]) -> PerToken {
    let mut rest = flat;
    completions
        .iter()
        .map(|completion| {
            let (own, others) = rest.split_at(completion.tokens.len());
            rest = others;
            own.to_vec()
        })
        .collect()
}
