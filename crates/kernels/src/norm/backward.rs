use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_flex::{Flex, FlexTensor};

use super::{Norm, NormOps, flex};
use crate::cpu::{Rows, remember, rounded_rows, tensor_bf16};
use crate::precision::Precision;

#[derive(Debug)]
struct NormBackward;

/// What the backward pass keeps of the forward pass.
#[derive(Debug, Clone)]
struct State {
    x: FlexTensor,
    weight: FlexTensor,
    norm: Norm,
}

/// With parents x and weight, or x, weight and bias.
fn backward<const N: usize>(ops: Ops<State, N>, grads: &mut Gradients) {
    let dy = grads.consume::<Flex>(&ops.node);
    let State { x, weight, norm } = ops.state;
    let affine = ops.parents[1..].iter().any(Option::is_some);
    let gradients = flex::backward(x, weight, dy, norm, affine);
    for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, gradient);
        }
    }
}

impl Backward<Flex, 2> for NormBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl Backward<Flex, 3> for NormBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl<C: CheckpointStrategy> NormOps for Autodiff<Flex, C> {
    fn norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let y = flex::forward(x.clone(), weight.clone(), None, norm);
        let nodes = [x_node, weight_node];
        match NormBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = match norm.precision {
                    Precision::Full => x,
                    Precision::Bf16 => {
                        let shape = x.layout().shape().clone();
                        tensor_bf16(rounded_rows(&Rows::new(x)), shape)
                    }
                };
                let state = State { x, weight, norm };
                let State { x, weight, norm } = state.clone();
                remember(&y, move || {
                    flex::forward(x.clone(), weight.clone(), None, norm)
                });
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn norm_with_bias_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let state = State {
            x: x.clone(),
            weight: weight.clone(),
            norm,
        };
        let y = flex::forward(x, weight, Some(bias), norm);
        let nodes = [x_node, weight_node, bias_node];
        match NormBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(state, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
