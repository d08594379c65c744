//! A language model with a head that scores answers.

use burn::module::Module;
use burn::tensor::Tensor;
use flametune_kernels::in_pool;
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;

use crate::error::Result;
use crate::head::ScalarHead;
use crate::host::numbers;
use crate::sequences::{SequenceBatch, indices};

/// A language model with a head that scores whole sequences at their last token, or steps at theirs.
#[derive(Module, Debug)]
pub struct RewardModel {
    /// The base, with the reward's adapter.
    pub lm: CausalLm,
    /// The score.
    pub score: ScalarHead,
}

/// The scores at some places of a flat batch.
///
/// # Shapes
/// - `hidden`: `[batch, seq, d_model]`; returns `[places]`
pub(crate) fn scores(head: &ScalarHead, places: &[usize], hidden: Tensor<3>) -> Tensor<1> {
    let [batch, seq, width] = hidden.dims();
    let places = indices(places, &hidden.device());
    head.forward(hidden.reshape([batch * seq, width]).select(0, places))
}

/// The scores at some places of a batch as numbers; `lm` has no autodiff.
///
/// # Errors
/// Those of the forward pass.
pub(crate) fn score_all(
    lm: &CausalLm,
    head: &ScalarHead,
    sequences: &SequenceBatch,
    places: &[usize],
    pass: &AdapterPass,
) -> Result<Vec<f32>> {
    in_pool(|| {
        let hidden = lm.forward(sequences.tokens(), None, pass)?;
        Ok(numbers(&scores(head, places, hidden)))
    })
}
