//! Cross-entropy with all logits in memory.

use burn::tensor::{DType, Tensor};

use super::targets::{Targets, indices};
use super::{CrossEntropy, CrossEntropyOutput, Inputs, LogitOptions};
use crate::linear::reference::linear_with;

/// The loss in plain tensor operations: the definition of correct.
///
/// # Panics
/// As [`linear_cross_entropy`](crate::linear_cross_entropy).
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    labels: &[i64],
    options: &CrossEntropy,
) -> CrossEntropyOutput {
    options.check();
    let inputs = Inputs::checked(hidden, weight, bias, labels, &options.logits);
    let supervised = inputs.targets.len();
    let targets = inputs.targets.clone();
    let z = logits(inputs, &options.logits);
    let log_sum = log_sum(z.clone());
    let mut losses = log_sum.clone() - label_logits(z.clone(), &targets);
    if options.label_smoothing > 0.0 {
        let uniform = log_sum.clone() - z.mean_dim(1).squeeze_dim(1);
        losses = losses * (1.0 - options.label_smoothing) + uniform * options.label_smoothing;
    }
    if options.z_loss > 0.0 {
        losses = losses + log_sum.clone() * log_sum * options.z_loss;
    }
    CrossEntropyOutput {
        loss: supervised_only(losses, &targets).sum(),
        supervised,
    }
}

/// Log-probabilities in plain tensor operations: the definition of correct.
///
/// # Panics
/// As [`linear_logps`](crate::linear_logps).
pub fn linear_logps(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    labels: &[i64],
    options: &LogitOptions,
) -> Tensor<1> {
    linear_logps_with_entropy(hidden, weight, bias, labels, options).0
}

/// Log-probabilities and entropies in plain tensor operations: the definition of correct.
///
/// # Panics
/// As [`linear_logps`](crate::linear_logps).
pub fn linear_logps_with_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    labels: &[i64],
    options: &LogitOptions,
) -> (Tensor<1>, Tensor<1>) {
    options.check();
    logps(
        Inputs::checked(hidden, weight, bias, labels, options),
        options,
    )
}

/// Log-probabilities and entropies.
pub(super) fn logps(inputs: Inputs, options: &LogitOptions) -> (Tensor<1>, Tensor<1>) {
    let targets = inputs.targets.clone();
    let z = logits(inputs, options);
    let log_sum = log_sum(z.clone());
    let logps = label_logits(z.clone(), &targets) - log_sum.clone();
    let log_p = z.inner() - log_sum.inner().unsqueeze_dim::<2>(1);
    let entropies = -(log_p.clone().exp() * log_p).sum_dim(1).squeeze_dim::<1>(1);
    (
        supervised_only(logps, &targets),
        supervised_only(entropies, &targets),
    )
}

/// Logits of all tokens in f32, scaled and capped.
fn logits(inputs: Inputs, options: &LogitOptions) -> Tensor<2> {
    let Inputs {
        hidden,
        weight,
        bias,
        ..
    } = inputs;
    let z = linear_with(hidden, weight, bias, options.precision).cast(DType::F32);
    shape_logits(z, options)
}

/// Scales and caps.
pub(super) fn shape_logits(z: Tensor<2>, options: &LogitOptions) -> Tensor<2> {
    let z = if options.logit_scale == 1.0 {
        z
    } else {
        z * options.logit_scale
    };
    match options.softcap {
        Some(cap) => (z / cap).tanh() * cap,
        None => z,
    }
}

/// `ln Σ e^z` along the vocabulary.
pub(super) fn log_sum(z: Tensor<2>) -> Tensor<1> {
    let max = z.clone().inner().max_dim(1);
    ((z - max.clone()).exp().sum_dim(1).log() + max).squeeze_dim(1)
}

/// The logit of each token's label; of any class where the token is ignored.
fn label_logits(z: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let mut classes = vec![0; targets.tokens];
    for (&row, &class) in targets.rows.iter().zip(&targets.classes) {
        classes[row] = class;
    }
    let classes = indices(&classes, &z.device());
    z.gather(1, classes.unsqueeze_dim(1)).squeeze_dim(1)
}

/// Sets the numbers of ignored tokens to zero.
fn supervised_only(values: Tensor<1>, targets: &Targets) -> Tensor<1> {
    if targets.all() {
        return values;
    }
    let mask = targets.spread(targets.rows.iter().map(|_| 1.0));
    let mask = Tensor::<1>::from_data(mask.as_slice(), &values.device());
    values.mask_fill(mask.equal_scalar(0.0), 0.0)
}
