//! A language model with a head that scores answers.

use burn::module::Module;
use burn::tensor::Tensor;
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;

use crate::error::Result;
use crate::head::ScalarHead;
use crate::host::numbers;
use crate::sequences::{SequenceBatch, indices};

/// A language model with a head that scores whole sequences at their last token.
#[derive(Module, Debug)]
pub struct RewardModel {
    /// The base, with the reward's adapter.
    pub lm: CausalLm,
    /// The score.
    pub score: ScalarHead,
}

/// The score of each sequence.
///
/// # Shapes
/// - `hidden`: `[batch, seq, d_model]`; returns `[sequences]`
pub(crate) fn scores(head: &ScalarHead, sequences: &SequenceBatch, hidden: Tensor<3>) -> Tensor<1> {
    let [batch, seq, width] = hidden.dims();
    let last = indices(&sequences.last_places(), &hidden.device());
    head.forward(hidden.reshape([batch * seq, width]).select(0, last))
}

/// The scores of sequences as numbers; `lm` has no autodiff.
///
/// # Errors
/// Those of the forward pass.
pub(crate) fn score_all(
    lm: &CausalLm,
    head: &ScalarHead,
    sequences: &SequenceBatch,
    pass: &AdapterPass,
) -> Result<Vec<f32>> {
    let hidden = lm.forward(sequences.tokens(), None, pass)?;
    Ok(numbers(&scores(head, sequences, hidden)))
}
