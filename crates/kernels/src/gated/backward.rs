use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_flex::{Flex, FlexTensor};

use super::{Activation, GatedOps, flex};
use crate::cpu::remember;
use crate::precision::Precision;

#[derive(Debug)]
struct GatedBackward;

/// What the backward pass keeps of the forward pass.
#[derive(Debug, Clone)]
struct State {
    activation: Activation,
    gate: FlexTensor,
    up: FlexTensor,
}

impl Backward<Flex, 2> for GatedBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let State {
            activation,
            gate,
            up,
        } = ops.state;
        let [dgate, dup] = flex::backward(activation, gate, up, dy);
        for (parent, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> GatedOps for Autodiff<Flex, C> {
    fn gated_forward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let (gate, gate_node) = gate.into_parts();
        let (up, up_node) = up.into_parts();
        match GatedBackward
            .prepare::<C>([gate_node, up_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (y, gate, up) = match precision {
                    Precision::Full => {
                        let y = flex::forward(activation, gate.clone(), up.clone());
                        (y, gate, up)
                    }
                    Precision::Bf16 => flex::forward_keeping_bf16(activation, gate, up),
                };
                let state = State {
                    activation,
                    gate,
                    up,
                };
                let State { gate, up, .. } = state.clone();
                remember(&y, move || {
                    flex::forward(activation, gate.clone(), up.clone())
                });
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(flex::forward(activation, gate, up)),
        }
    }
}
