//! From tensors to the CPU pass and back.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::{Shape, Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};

use super::backward::{Gradient, Known};
use super::flex::{Gradients, Problem};
use super::head::Head;
use super::tile::Shaping;
use super::{CrossEntropy, CrossEntropyOps, Inputs, LogitOptions, Wants};
use crate::cpu::{Rows, tensor};

/// Bytes that a chunk of logits may take: 341 rows of 49152.
pub(super) const BUDGET: usize = 64 << 20;

/// The summed loss, differentiable.
pub(super) fn loss(inputs: Inputs, options: &CrossEntropy, budget: usize) -> Tensor<1> {
    let wants = inputs.wants();
    let problem = problem(&inputs, options, budget);
    let pass = problem.run(wants, false, &|_| 1.0);
    #[allow(clippy::cast_possible_truncation, reason = "a loss is f32")]
    let loss = pass.losses.iter().sum::<f64>() as f32;
    let gradient = Gradient::Known(known(pass.gradients, &problem));
    attach(vec![loss], inputs, gradient)
}

/// Log-probabilities, differentiable, and entropies if asked for.
pub(super) fn logps(
    inputs: Inputs,
    options: &LogitOptions,
    budget: usize,
    entropy: bool,
) -> (Tensor<1>, Tensor<1>) {
    let wants = inputs.wants();
    let options = CrossEntropy {
        logits: *options,
        ..CrossEntropy::default()
    };
    let problem = problem(&inputs, &options, budget);
    // The gradient of the head is a sum over tokens, whose weights the backward pass brings.
    let now = if wants.head() {
        Wants::default()
    } else {
        wants
    };
    let pass = problem.run(now, entropy, &|_| -1.0);
    #[allow(clippy::cast_possible_truncation, reason = "log-probabilities are f32")]
    let per_token = |values: &[f64], sign: f64| {
        let values = values.iter().map(|value| (sign * value) as f32);
        problem.targets.spread(values)
    };
    let values = per_token(&pass.losses, -1.0);
    let entropies = per_token(&pass.entropies, 1.0);
    let gradient = if wants.head() {
        Gradient::Again(problem, wants)
    } else {
        Gradient::Known(known(pass.gradients, &problem))
    };
    let device = inputs.hidden.device();
    let shape = [entropies.len()];
    let entropies = Tensor::from_data(TensorData::new(entropies, shape), &device);
    (attach(values, inputs, gradient), entropies)
}

fn problem(inputs: &Inputs, options: &CrossEntropy, budget: usize) -> Problem {
    #[allow(clippy::cast_possible_truncation, reason = "logits are f32")]
    let shaping = Shaping {
        scale: options.logits.logit_scale as f32,
        cap: options.logits.softcap.map(|cap| cap as f32),
    };
    let bias = inputs.bias.clone().map(primitive);
    Problem {
        hidden: Rows::new(primitive(inputs.hidden.clone())),
        head: Head::new(
            primitive(inputs.weight.clone()),
            bias,
            options.logits.precision,
        ),
        targets: Arc::new(inputs.targets.clone()),
        shaping,
        label_smoothing: options.label_smoothing,
        z_loss: options.z_loss,
        budget,
    }
}

/// The tensor behind a tensor on the CPU.
#[allow(clippy::expect_used, reason = "checked by `Inputs::native`")]
fn primitive<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor
        .inner()
        .try_into_primitive::<Flex>()
        .expect("the native form runs on the Flex backend")
}

/// Gradients as tensors.
pub(super) fn known(gradients: Gradients, problem: &Problem) -> Known {
    let (vocab, width) = (problem.head.vocab(), problem.head.width());
    let matrix = |values: Vec<f32>, rows| tensor(values, Shape::from([rows, width]));
    Known {
        hidden: gradients
            .hidden
            .map(|values| matrix(values, problem.targets.tokens)),
        weight: gradients.weight.map(|values| matrix(values, vocab)),
        bias: gradients
            .bias
            .map(|values| tensor(values, Shape::from([vocab]))),
    }
}

/// `values` as a tensor that has a gradient.
fn attach(values: Vec<f32>, inputs: Inputs, gradient: Gradient) -> Tensor<1> {
    let Inputs {
        hidden,
        weight,
        bias,
        ..
    } = inputs;
    let shape = [values.len()];
    let value = Tensor::<1>::from_data(TensorData::new(values, shape), &hidden.device().inner());
    let (value, hidden) = (value.into_dispatch(), hidden.into_dispatch());
    let weight = weight.into_dispatch();
    Tensor::from_dispatch(match bias {
        None => Dispatch::with_gradient(value, hidden, weight, gradient),
        Some(bias) => {
            Dispatch::with_bias_gradient(value, hidden, weight, bias.into_dispatch(), gradient)
        }
    })
}
