//! Any device: the same pass in tensor operations, a chunk of rows at a time.

use std::ops::Range;

use burn::tensor::{DType, IndexingUpdateOp, Tensor};

use super::reference::{self, log_sum, shape_logits};
use super::targets::indices;
use super::{CrossEntropy, Inputs, LogitOptions, Wants};
use crate::linear::reference::linear_with;
use crate::precision::Precision;

/// Bytes that a chunk of logits may take.
pub(super) const BUDGET: usize = 256 << 20;

/// The summed loss, differentiable.
pub(super) fn loss(inputs: Inputs, options: &CrossEntropy, budget: usize) -> Tensor<1> {
    let pass = run(&inputs, options, inputs.wants(), budget, 1.0);
    let mut loss = follow(pass.losses.sum(), &inputs.hidden);
    // Each term is zero, and its gradient the known one.
    if let Some(gradient) = pass.hidden {
        loss = loss + zero(inputs.hidden, gradient).sum().cast(DType::F32);
    }
    if let Some(gradient) = pass.weight {
        loss = loss + zero(inputs.weight, gradient).sum().cast(DType::F32);
    }
    if let (Some(bias), Some(gradient)) = (inputs.bias, pass.bias) {
        loss = loss + zero(bias, gradient).sum().cast(DType::F32);
    }
    loss
}

/// Log-probabilities, differentiable, and entropies.
pub(super) fn logps(
    inputs: Inputs,
    options: &LogitOptions,
    budget: usize,
) -> (Tensor<1>, Tensor<1>) {
    if inputs.wants().head() {
        return reference::logps(inputs, options);
    }
    let loss = CrossEntropy {
        logits: *options,
        ..CrossEntropy::default()
    };
    let pass = run(&inputs, &loss, inputs.wants(), budget, -1.0);
    let mut logps = follow(-pass.losses, &inputs.hidden);
    let entropies = follow(pass.entropies, &inputs.hidden);
    if let Some(gradient) = pass.hidden {
        let zeros = zero(inputs.hidden, gradient).sum_dim(1);
        logps = logps + zeros.squeeze_dim::<1>(1).cast(DType::F32);
    }
    (logps, entropies)
}

/// `x` with the autodiff context of `leader`.
fn follow(x: Tensor<1>, leader: &Tensor<2>) -> Tensor<1> {
    match leader.gradient_checkpointing_strategy() {
        Some(strategy) => x.autodiff().with_gradient_checkpointing_strategy(strategy),
        None => x,
    }
}

/// Zeros whose gradient with respect to `x` is `gradient`.
fn zero<const D: usize>(x: Tensor<D>, gradient: Tensor<D>) -> Tensor<D> {
    let gradient = gradient.cast(x.dtype());
    (x.clone() - x.inner()) * gradient
}

/// What a pass makes, outside any graph.
struct Pass {
    /// `[tokens]`.
    losses: Tensor<1>,
    /// `[tokens]`.
    entropies: Tensor<1>,
    /// `[tokens, d_model]`.
    hidden: Option<Tensor<2>>,
    weight: Option<Tensor<2>>,
    bias: Option<Tensor<1>>,
}

/// Losses, and the gradients of `coefficient · Σ loss`.
fn run(
    inputs: &Inputs,
    options: &CrossEntropy,
    wants: Wants,
    budget: usize,
    coefficient: f64,
) -> Pass {
    let head = Head::new(inputs, options, coefficient);
    let ([tokens, width], [vocab, _]) = (inputs.hidden.dims(), head.weight.dims());
    let device = head.weight.device();
    let (mut weight, mut bias) = (None, None);
    let (mut losses, mut entropies, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
    let rows = inputs.targets.len();
    let size = (budget / (vocab * size_of::<f32>()).max(1)).clamp(1, rows.max(1));
    for first in (0..rows).step_by(size) {
        let chunk = head.chunk(inputs, first..(first + size).min(rows));
        losses.push(chunk.losses());
        entropies.push(chunk.entropies());
        if !wants.any() {
            continue;
        }
        let dz = chunk.slopes();
        if wants.bias {
            bias = Some(added(bias, dz.clone().sum_dim(0).squeeze_dim::<1>(0)));
        }
        let dz = rounded(dz.cast(inputs.hidden.dtype()), options.logits.precision);
        if wants.weight {
            let h = rounded(chunk.h.clone(), options.logits.precision);
            let product = dz.clone().transpose().matmul(h).cast(DType::F32);
            weight = Some(added(weight, product));
        }
        if wants.hidden {
            let dtype = dz.dtype();
            let weight = rounded(head.weight.clone(), options.logits.precision);
            hidden.push(dz.matmul(weight.cast(dtype)));
        }
    }
    let zeros = |shape| Tensor::<1>::zeros(shape, &device);
    Pass {
        losses: spread(losses, zeros([tokens]), inputs),
        entropies: spread(entropies, zeros([tokens]), inputs),
        hidden: wants.hidden.then(|| {
            let zeros = Tensor::<2>::zeros([tokens, width], &device);
            spread(hidden, zeros.cast(inputs.hidden.dtype()), inputs)
        }),
        weight: wants
            .weight
            .then(|| weight.unwrap_or_else(|| Tensor::zeros([vocab, width], &device))),
        bias: wants
            .bias
            .then(|| bias.unwrap_or_else(|| Tensor::zeros([vocab], &device))),
    }
}

fn added<const D: usize>(sum: Option<Tensor<D>>, term: Tensor<D>) -> Tensor<D> {
    match sum {
        Some(sum) => sum + term,
        None => term,
    }
}

/// Numbers as a product wants them.
fn rounded(x: Tensor<2>, precision: Precision) -> Tensor<2> {
    match precision {
        Precision::Full => x,
        Precision::Bf16 => {
            let dtype = x.dtype();
            x.cast(DType::BF16).cast(dtype)
        }
    }
}

/// Puts the rows of the supervised tokens in their places among `zeros`.
fn spread<const D: usize>(parts: Vec<Tensor<D>>, zeros: Tensor<D>, inputs: &Inputs) -> Tensor<D> {
    if parts.is_empty() {
        return zeros;
    }
    let values = Tensor::cat(parts, 0);
    if inputs.targets.all() {
        return values;
    }
    let rows = indices(&inputs.targets.rows, &zeros.device());
    zeros.select_assign(0, rows, values, IndexingUpdateOp::Add)
}

/// The output head, outside any graph.
struct Head<'a> {
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    options: &'a CrossEntropy,
    coefficient: f64,
}

impl<'a> Head<'a> {
    fn new(inputs: &Inputs, options: &'a CrossEntropy, coefficient: f64) -> Self {
        Self {
            hidden: inputs.hidden.clone().inner(),
            weight: inputs.weight.clone().inner(),
            bias: inputs.bias.clone().map(Tensor::inner),
            options,
            coefficient,
        }
    }

    /// The logits of some supervised rows.
    fn chunk(&self, inputs: &Inputs, rows: Range<usize>) -> Chunk<'_> {
        let device = self.hidden.device();
        let h = if inputs.targets.all() {
            self.hidden.clone().slice([rows.clone()])
        } else {
            let rows = indices(&inputs.targets.rows[rows.clone()], &device);
            self.hidden.clone().select(0, rows)
        };
        let z = linear_with(
            h.clone(),
            self.weight.clone(),
            self.bias.clone(),
            self.options.logits.precision,
        );
        let z = shape_logits(z.cast(DType::F32), &self.options.logits);
        Chunk {
            head: self,
            h,
            log_sum: log_sum(z.clone()).unsqueeze_dim(1),
            classes: indices(&inputs.targets.classes[rows], &device).unsqueeze_dim(1),
            z,
        }
    }
}

/// Some rows of logits.
struct Chunk<'a> {
    head: &'a Head<'a>,
    h: Tensor<2>,
    z: Tensor<2>,
    /// `[rows, 1]`.
    log_sum: Tensor<2>,
    /// `[rows, 1]`.
    classes: Tensor<2, burn::tensor::Int>,
}

impl Chunk<'_> {
    fn losses(&self) -> Tensor<1> {
        let options = self.head.options;
        let label = self.z.clone().gather(1, self.classes.clone());
        let mut losses = self.log_sum.clone() - label * (1.0 - options.label_smoothing);
        if options.label_smoothing > 0.0 {
            losses = losses - self.z.clone().mean_dim(1) * options.label_smoothing;
        }
        if options.z_loss > 0.0 {
            losses = losses + self.log_sum.clone() * self.log_sum.clone() * options.z_loss;
        }
        losses.squeeze_dim(1)
    }

    fn entropies(&self) -> Tensor<1> {
        let log_p = self.z.clone() - self.log_sum.clone();
        -(log_p.clone().exp() * log_p).sum_dim(1).squeeze_dim::<1>(1)
    }

    /// The gradient of `coefficient · Σ loss` with respect to `h·Wᵀ + b`.
    fn slopes(&self) -> Tensor<2> {
        let options = self.head.options;
        let [rows, vocab] = self.z.dims();
        let mut dz = (self.z.clone() - self.log_sum.clone()).exp();
        if options.z_loss > 0.0 {
            dz = dz * (self.log_sum.clone() * (2.0 * options.z_loss) + 1.0);
        }
        if options.label_smoothing > 0.0 {
            dz = dz - options.label_smoothing / vocab as f64;
        }
        let label = Tensor::full([rows, 1], options.label_smoothing - 1.0, &dz.device());
        dz = dz.scatter(1, self.classes.clone(), label, IndexingUpdateOp::Add);
        if let Some(cap) = options.logits.softcap {
            let t = self.z.clone() / cap;
            dz = dz * (-(t.clone() * t) + 1.0);
        }
        dz * (self.head.coefficient * options.logits.logit_scale)
    }
}
