use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_flex::{Flex, FlexTensor};

use super::{Activation, GatedOps, flex};

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
    ) -> FloatTensor<Self> {
        let (gate, gate_node) = gate.into_parts();
        let (up, up_node) = up.into_parts();
        match GatedBackward
            .prepare::<C>([gate_node, up_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let state = State {
                    activation,
                    gate: gate.clone(),
                    up: up.clone(),
                };
                prep.finish(state, flex::forward(activation, gate, up))
            }
            OpsKind::UnTracked(prep) => prep.finish(flex::forward(activation, gate, up)),
        }
    }
}
