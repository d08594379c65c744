use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{FloatDType, Shape};
use burn_flex::{Flex, FlexTensor};

use super::flex::Problem;
use super::native::known;
use super::{CrossEntropyOps, Wants};
use crate::cpu::Rows;

#[derive(Debug)]
struct CrossEntropyBackward;

/// Where the gradient of a value comes from.
#[derive(Debug, Clone)]
pub(crate) enum Gradient {
    /// It was made along with the value and waits for its factor.
    Known(Known),
    /// It is made when the factors of all tokens are known.
    Again(Problem, Wants),
}

/// Gradients of a scalar, or the rows of the hidden states' gradients of a vector.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(super) hidden: Option<FlexTensor>,
    pub(super) weight: Option<FlexTensor>,
    pub(super) bias: Option<FlexTensor>,
}

impl Gradient {
    /// The gradients of hidden states, weight and bias for the gradient of the value.
    fn pull(self, dy: &FlexTensor) -> [Option<FlexTensor>; 3] {
        match self {
            Self::Known(Known {
                hidden,
                weight,
                bias,
            }) => [hidden, weight, bias].map(|known| known.map(|known| scale(known, dy))),
            Self::Again(problem, wants) => {
                let dy = Rows::new(dy.to_contiguous());
                let factors = dy.data::<f32>();
                // A log-probability is a loss with the other sign.
                let pass = problem.run(wants, false, &|token| -factors[token]);
                let known = known(pass.gradients, &problem);
                [known.hidden, known.weight, known.bias]
            }
        }
    }
}

/// Everything times the only factor, or each row times its own.
fn scale(known: FlexTensor, dy: &FlexTensor) -> FlexTensor {
    let factors = dy.to_contiguous();
    match *factors.storage::<f32>() {
        [1.0] => known,
        [factor] => Flex::float_mul_scalar(known, factor.into()),
        _ => {
            let rows = dy.layout().shape()[0];
            let factors = Flex::float_reshape(factors, Shape::from([rows, 1]));
            Flex::float_mul(known, factors)
        }
    }
}

/// With parents value, hidden and weight, or those and bias.
fn backward<const N: usize>(ops: Ops<(Gradient, FloatDType), N>, grads: &mut Gradients) {
    let dy = grads.consume::<Flex>(&ops.node);
    let (gradient, weight_dtype) = ops.state;
    let [hidden, weight, bias] = gradient.pull(&dy);
    let weight = weight.map(|weight| Flex::float_cast(weight, weight_dtype));
    for (parent, gradient) in ops.parents.into_iter().zip([hidden, weight, bias]) {
        if let (Some(parent), Some(gradient)) = (parent, gradient) {
            grads.register::<Flex>(parent.id, gradient);
        }
    }
}

impl Backward<Flex, 2> for CrossEntropyBackward {
    type State = (Gradient, FloatDType);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl Backward<Flex, 3> for CrossEntropyBackward {
    type State = (Gradient, FloatDType);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl<C: CheckpointStrategy> CrossEntropyOps for Autodiff<Flex, C> {
    fn with_gradient(
        value: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: Gradient,
    ) -> FloatTensor<Self> {
        let value = value.into_primitive();
        let (_, hidden) = hidden.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let state = (gradient, weight.dtype().into());
        match CrossEntropyBackward
            .prepare::<C>([hidden, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(state, value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    }

    fn with_bias_gradient(
        value: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gradient: Gradient,
    ) -> FloatTensor<Self> {
        let value = value.into_primitive();
        let (_, hidden) = hidden.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (_, bias) = bias.into_parts();
        let state = (gradient, weight.dtype().into());
        match CrossEntropyBackward
            .prepare::<C>([hidden, weight_node, bias])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(state, value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    }
}
