mod backward;
mod chunked;
mod flex;
mod head;
mod native;
mod options;
pub(crate) mod reference;
mod targets;
#[cfg(test)]
mod tests;
mod tile;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_flex::Flex;

use crate::cpu;
use backward::Gradient;
use targets::Targets;

pub use options::{CrossEntropy, LogitOptions};

#[backend_extension(Flex, Autodiff)]
pub(crate) trait CrossEntropyOps: Backend {
    /// `value`, with a known gradient.
    fn with_gradient(
        value: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: Gradient,
    ) -> FloatTensor<Self>;

    /// [`Self::with_gradient`] of a head that has a bias.
    fn with_bias_gradient(
        value: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gradient: Gradient,
    ) -> FloatTensor<Self>;
}

impl CrossEntropyOps for Flex {
    fn with_gradient(
        value: FloatTensor<Self>,
        _hidden: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _gradient: Gradient,
    ) -> FloatTensor<Self> {
        value
    }

    fn with_bias_gradient(
        value: FloatTensor<Self>,
        _hidden: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _bias: FloatTensor<Self>,
        _gradient: Gradient,
    ) -> FloatTensor<Self> {
        value
    }
}

/// What [`linear_cross_entropy`] returns.
#[derive(Debug, Clone)]
pub struct CrossEntropyOutput {
    /// The **sum** of the losses of all supervised tokens, `[1]`, f32. Divide by the number of
    /// supervised tokens of the whole optimizer step, not of this call.
    pub loss: Tensor<1>,
    /// How many tokens were supervised.
    pub supervised: usize,
}

/// Output head and cross-entropy in one, without the `[tokens, vocab]` matrix.
///
/// For a supervised token with label `y`, logits `z = softcap(logit_scale·(h·Wᵀ + b))` and
/// `L = ln Σ eᶻ`, the loss is
///
/// `(1 − ε)·(L − z_y) + ε·(L − mean z) + ζ·L²`
///
/// with `ε` the label smoothing and `ζ` the weight of the z-loss.
///
/// Only supervised tokens are computed, some hundred rows of logits at a time. The gradients of
/// whatever is tracked among `hidden`, `weight` and `bias` are made in the same pass, while the
/// logits are at hand, and the backward pass only scales them. If nothing is tracked, no gradient
/// is computed. Logits and loss are f32 whatever the dtype of the inputs.
///
/// # Shapes
/// - `hidden`: `[tokens, d_model]`, `weight`: `[vocab, d_model]`, `bias`: `[vocab]`,
///   `labels`: `[tokens]`
/// - loss: `[1]`
///
/// # Panics
/// When shapes do not match, a label is neither `ignore_index` nor a class below `vocab`, or an
/// option is out of range. Labels are token ids that were checked when the data was made.
///
/// # Source
/// - label smoothing: Szegedy et al. 2016, arXiv:1512.00567, §7; torch `nn.functional.cross_entropy`
/// - z-loss: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, §5
/// - gradients in the forward pass: Hsu et al. 2024, Liger Kernel, arXiv:2410.10989, §3.2
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use flametune_kernels::{CrossEntropy, linear_cross_entropy};
///
/// let device = Device::default();
/// let hidden = Tensor::<2>::from_floats([[1.0, 0.0], [5.0, 5.0]], &device);
/// let weight = Tensor::<2>::from_floats([[0.0, 1.0], [0.0, 2.0]], &device);
/// let output = linear_cross_entropy(hidden, weight, None, &[1, -100], &CrossEntropy::default());
/// // Both logits of the only supervised token are zero.
/// assert!((output.loss.into_scalar::<f32>() - 2f32.ln()).abs() < 1e-6);
/// assert_eq!(output.supervised, 1);
/// ```
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
    let loss = if inputs.native() {
        native::loss(inputs, options, native::BUDGET)
    } else {
        chunked::loss(inputs, options, chunked::BUDGET)
    };
    CrossEntropyOutput { loss, supervised }
}

/// The log-probability of each token's label, without the `[tokens, vocab]` matrix.
///
/// `z_y − ln Σ eᶻ` with `z = softcap(logit_scale·(h·Wᵀ + b))`; zero where the label is
/// `ignore_index`.
///
/// Differentiable in `hidden`, `weight` and `bias`. With a frozen head (adapters, preference
/// optimization) the gradient of each row is made along with the logits and scaled in the backward
/// pass. If the head itself is tracked, the backward pass computes the logits again, chunk by
/// chunk; on devices other than the CPU it keeps them.
///
/// # Shapes
/// - `hidden`: `[tokens, d_model]`, `weight`: `[vocab, d_model]`, `bias`: `[vocab]`,
///   `labels`: `[tokens]`
/// - returns `[tokens]`, f32
///
/// # Panics
/// As [`linear_cross_entropy`].
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use flametune_kernels::{LogitOptions, linear_logps};
///
/// let device = Device::default();
/// let hidden = Tensor::<2>::from_floats([[1.0, 0.0], [5.0, 5.0]], &device);
/// let weight = Tensor::<2>::from_floats([[0.0, 1.0], [0.0, 2.0]], &device);
/// let logps = linear_logps(hidden, weight, None, &[1, -100], &LogitOptions::default());
/// let logps = logps.into_data().try_to_vec::<f32>().unwrap();
/// assert!((logps[0] + 2f32.ln()).abs() < 1e-6);
/// assert_eq!(logps[1], 0.0);
/// ```
pub fn linear_logps(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    labels: &[i64],
    options: &LogitOptions,
) -> Tensor<1> {
    options.check();
    let inputs = Inputs::checked(hidden, weight, bias, labels, options);
    if inputs.native() {
        native::logps(inputs, options, native::BUDGET, false).0
    } else {
        chunked::logps(inputs, options, chunked::BUDGET).0
    }
}

/// [`linear_logps`], and the entropy `−Σ p ln p` of each supervised token's distribution in nats,
/// without a gradient; zero where the label is `ignore_index`.
///
/// # Shapes
/// - as [`linear_logps`]; both results are `[tokens]`, f32
///
/// # Panics
/// As [`linear_cross_entropy`].
pub fn linear_logps_with_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    labels: &[i64],
    options: &LogitOptions,
) -> (Tensor<1>, Tensor<1>) {
    options.check();
    let inputs = Inputs::checked(hidden, weight, bias, labels, options);
    if inputs.native() {
        native::logps(inputs, options, native::BUDGET, true)
    } else {
        chunked::logps(inputs, options, chunked::BUDGET)
    }
}

/// Tensors whose shapes fit each other, and what they are to predict.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    targets: Targets,
}

impl Inputs {
    fn checked(
        hidden: Tensor<2>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        labels: &[i64],
        options: &LogitOptions,
    ) -> Self {
        let ([tokens, width], [vocab, d_model]) = (hidden.dims(), weight.dims());
        assert_eq!(
            width, d_model,
            "cross_entropy: last dimension of hidden must equal d_model of the weight"
        );
        assert_eq!(
            labels.len(),
            tokens,
            "cross_entropy: one label for each token"
        );
        if let Some(bias) = &bias {
            assert_eq!(bias.dims(), [vocab], "cross_entropy: bias must be [vocab]");
        }
        let targets = Targets::new(labels, options.ignore_index, vocab);
        Self {
            hidden,
            weight,
            bias,
            targets,
        }
    }

    /// Whether the CPU form can take them.
    fn native(&self) -> bool {
        cpu::takes(&self.hidden)
            && matches!(self.weight.dtype(), DType::F32 | DType::BF16 | DType::F16)
            && self.bias.as_ref().is_none_or(cpu::takes)
    }

    /// Which gradients are wanted.
    fn wants(&self) -> Wants {
        Wants {
            hidden: self.hidden.is_tracked(),
            weight: self.weight.is_tracked(),
            bias: self.bias.as_ref().is_some_and(Tensor::is_tracked),
        }
    }
}

/// The inputs whose gradients are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wants {
    hidden: bool,
    weight: bool,
    bias: bool,
}

impl Wants {
    fn any(self) -> bool {
        self.hidden || self.head()
    }

    /// Whether the head itself is trained.
    fn head(self) -> bool {
        self.weight || self.bias
    }
}
