use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn_flex::{Flex, FlexTensor};

use super::forward::forward;
use super::gradient::{Saved, gradient};
use super::heads::rounded_heads;
use super::{Attention, AttentionOps};
use crate::cpu::{remember, widened};
use crate::precision::Precision;

#[derive(Debug)]
struct AttentionBackward;

impl Backward<Flex, 3> for AttentionBackward {
    type State = (Attention, Saved);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let (attention, saved) = ops.state;
        for (parent, gradient) in ops.parents.into_iter().zip(gradient(&attention, saved, dy)) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> AttentionOps for Autodiff<Flex, C> {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        attention: Attention,
    ) -> FloatTensor<Self> {
        let (q, q_node) = q.into_parts();
        let (k, k_node) = k.into_parts();
        let (v, v_node) = v.into_parts();
        let [q, k, v] = match attention.precision {
            Precision::Full => [q, k, v],
            Precision::Bf16 => [q, k, v].map(rounded_heads),
        };
        let (y, log_sums) = forward(&attention, q.clone(), k.clone(), v.clone());
        let nodes = [q_node, k_node, v_node];
        match AttentionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let kept = match attention.precision {
                    Precision::Full => y.clone(),
                    Precision::Bf16 => rounded_heads(y.clone()),
                };
                if attention.precision == Precision::Bf16 {
                    // The layer that reads the joined heads makes do with what is kept here.
                    let joined = |heads: &_| Flex::float_swap_dims(FlexTensor::clone(heads), 1, 2);
                    let kept = joined(&kept);
                    remember(&joined(&y), move || widened(kept.clone()));
                }
                let saved = Saved {
                    q,
                    k,
                    v,
                    y: kept,
                    log_sums,
                };
                prep.finish((attention, saved), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
