use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::FloatDType;
use burn_flex::{Flex, FlexTensor};

use super::{LinearOps, flex};
use crate::cpu::Kept;
use crate::precision::Precision;

#[derive(Debug)]
struct LinearBackward;

/// What the backward pass keeps: the weight if x wants a gradient, x if the weight does.
#[derive(Debug, Clone)]
struct State {
    x: Option<Kept>,
    weight: Option<FlexTensor>,
    weight_dtype: FloatDType,
    bias_dtype: FloatDType,
    precision: Precision,
}

/// With parents x and weight, or x, weight and bias.
fn backward<const N: usize>(ops: Ops<State, N>, grads: &mut Gradients) {
    let dy = grads.consume::<Flex>(&ops.node);
    let State {
        x,
        weight,
        weight_dtype,
        bias_dtype,
        precision,
    } = ops.state;
    let mut parents = ops.parents.into_iter();
    let mut parent = || parents.next().flatten();
    if let (Some(parent), Some(weight)) = (parent(), weight) {
        grads.register::<Flex>(parent.id, flex::x_gradient(dy.clone(), weight, precision));
    }
    if let (Some(parent), Some(x)) = (parent(), x) {
        let gradient = flex::weight_gradient(dy.clone(), x.tensor(), precision);
        grads.register::<Flex>(parent.id, Flex::float_cast(gradient, weight_dtype));
    }
    if let Some(parent) = parent() {
        let gradient = Flex::float_cast(flex::bias_gradient(dy), bias_dtype);
        grads.register::<Flex>(parent.id, gradient);
    }
}

impl Backward<Flex, 2> for LinearBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl Backward<Flex, 3> for LinearBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl<C: CheckpointStrategy> LinearOps for Autodiff<Flex, C> {
    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let (keep_x, keep_weight) = (weight.is_tracked(), x.is_tracked());
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let state = State {
            x: keep_x.then(|| Kept::new(x.clone())),
            weight: keep_weight.then(|| weight.clone()),
            weight_dtype: weight.dtype().into(),
            bias_dtype: x.dtype().into(),
            precision,
        };
        let y = flex::forward(x, weight, None, precision);
        match LinearBackward
            .prepare::<C>([x_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(state, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn linear_with_bias_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let (keep_x, keep_weight) = (weight.is_tracked(), x.is_tracked());
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let state = State {
            x: keep_x.then(|| Kept::new(x.clone())),
            weight: keep_weight.then(|| weight.clone()),
            weight_dtype: weight.dtype().into(),
            bias_dtype: bias.dtype().into(),
            precision,
        };
        let y = flex::forward(x, weight, Some(bias), precision);
        let nodes = [x_node, weight_node, bias_node];
        match LinearBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(state, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
