mod backward;
mod block;
mod dropout;
mod flex;
mod frozen;
mod fused;
mod gradient;
mod plan;
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_flex::Flex;

use crate::cpu;
use crate::linear::linear_with;
use crate::packed::{PackedWeight, packed_linear};
use crate::precision::Precision;
use frozen::{Frozen, fixed};
use plan::Plan;

pub use dropout::LoraDropout;

#[backend_extension(Flex, Autodiff)]
pub(crate) trait LoraOps: Backend {
    /// Adds the adapters to `y`.
    fn lora_add(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        y: FloatTensor<Self>,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self>;

    /// Adds the adapters to what a frozen layer computes.
    fn lora_frozen(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        base: Frozen,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self>;
}

impl LoraOps for Flex {
    fn lora_add(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        y: FloatTensor<Self>,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self> {
        flex::add(&flex::Inputs::new(x, a, b), y, &plan, false).0
    }

    fn lora_frozen(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        base: Frozen,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self> {
        flex::on_frozen(&flex::Inputs::new(x, a, b), &base, &plan, false).0
    }
}

/// The factors of one adapter: it adds `scaling · (dropout(x)·Aᵀ)·Bᵀ`.
#[derive(Debug, Clone)]
pub struct LoraFactors {
    /// `A`, down to the rank: `[r, d_in]`.
    pub a: Tensor<2>,
    /// `B`, up to the output: `[d_out, r]`.
    pub b: Tensor<2>,
    /// What the product is multiplied by.
    pub scaling: f64,
    /// The dropout of the adapter's inputs, in training.
    pub dropout: Option<LoraDropout>,
}

/// An adapter and the rows that use it.
#[derive(Debug, Clone)]
pub struct LoraSegment {
    /// Ranges of rows of `x`; no row may be in two ranges, of this segment or of others.
    pub rows: Vec<Range<usize>>,
    /// The adapter.
    pub factors: LoraFactors,
}

/// What the adapters are added to.
///
/// A layer that is not trained is best given as [`Dense`](Self::Dense) or
/// [`Packed`](Self::Packed): both its share and the adapters' of `dx` then go into one buffer.
#[allow(clippy::large_enum_variant, reason = "there is one of it in a call")]
#[derive(Debug, Clone)]
pub enum LoraBase {
    /// A tensor `[rows, d_out]`; changed in place if nobody else holds it.
    Output(Tensor<2>),
    /// The output of [`linear_with`](crate::linear_with).
    Dense {
        /// `[d_out, d_in]`.
        weight: Tensor<2>,
        /// `[d_out]`.
        bias: Option<Tensor<1>>,
        /// How the layer multiplies.
        precision: Precision,
    },
    /// The output of [`packed_linear`](crate::packed_linear).
    Packed {
        /// The quantized weight.
        weight: PackedWeight,
        /// `[d_out]`.
        bias: Option<Tensor<1>>,
        /// How the layer multiplies.
        precision: Precision,
    },
}

impl LoraBase {
    fn d_out(&self) -> usize {
        match self {
            Self::Output(y) => y.dims()[1],
            Self::Dense { weight, .. } => weight.dims()[0],
            Self::Packed { weight, .. } => weight.shape()[0],
        }
    }

    fn output(self, x: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Output(y) => y,
            Self::Dense {
                weight,
                bias,
                precision,
            } => linear_with(x.clone(), weight, bias, precision),
            Self::Packed {
                weight,
                bias,
                precision,
            } => packed_linear(x.clone(), &weight, bias, precision),
        }
    }
}

/// A linear layer with a low-rank adapter: `y = base(x) + scaling · (dropout(x)·Aᵀ)·Bᵀ`.
///
/// Differentiable in `x`, `A`, `B`, and in the base's output where that is given. On the CPU the
/// products of one adapter on all rows, without dropout, ride along with those of a frozen layer:
/// they share its packed operands, round them to bf16 where it does, and enter its sums before
/// these are written. The gradients of `A` and `B`, and all other updates, which are added in place
/// a few rows at a time, are f32 products whatever the base's precision. The backward pass keeps `x` (shared), `dropout(x)·Aᵀ` of `[rows, r]`, and no mask: it is made again from its key.
///
/// `h = drop(x)·Aᵀ`, `dB = s·dyᵀ·h`, `dh = s·dy·B`, `dA = dhᵀ·drop(x)`, `dx = dy·W + drop(dh·A)`
///
/// # Shapes
/// - `x`: `[rows, d_in]`, `A`: `[r, d_in]`, `B`: `[d_out, r]`
/// - returns `[rows, d_out]`, the dtype of the base's output
///
/// # Panics
/// When shapes do not match, a rank is zero, or the probability of dropout is none.
///
/// # Source
/// - Hu et al. 2021, LoRA, arXiv:2106.09685, §4.1 eq. (3)
/// - reference: peft `tuners/lora/layer.py::Linear.forward`
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use flametune_kernels::{LoraBase, LoraFactors, lora_linear};
///
/// let device = Device::default();
/// let x = Tensor::<2>::from_floats([[1.0, 2.0]], &device);
/// let factors = LoraFactors {
///     a: Tensor::from_floats([[1.0, 1.0]], &device),
///     b: Tensor::from_floats([[1.0], [0.0], [-1.0]], &device),
///     scaling: 2.0,
///     dropout: None,
/// };
/// let base = LoraBase::Output(Tensor::ones([1, 3], &device));
/// let y = lora_linear(x, base, factors);
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [7.0, 1.0, -5.0]);
/// ```
pub fn lora_linear(x: Tensor<2>, base: LoraBase, factors: LoraFactors) -> Tensor<2> {
    let rows = std::iter::once(0..x.dims()[0]).collect();
    lora_segmented(x, base, vec![LoraSegment { rows, factors }])
}

/// [`lora_linear`] for rows that use different adapters, of different ranks, or none.
///
/// The rows stay where they are: nothing is gathered or put back. The random numbers of dropout
/// are those of a row's place in `x`.
///
/// # Shapes
/// - as [`lora_linear`]
///
/// # Panics
/// As [`lora_linear`], and when a row is outside `x` or belongs to two segments.
///
/// # Source
/// - Chen et al. 2023, Punica, arXiv:2310.18547 (many adapters in one product)
pub fn lora_segmented(x: Tensor<2>, base: LoraBase, segments: Vec<LoraSegment>) -> Tensor<2> {
    let ([rows, d_in], d_out) = (x.dims(), base.d_out());
    for LoraSegment { factors, .. } in &segments {
        let ([r, width], [height, rank]) = (factors.a.dims(), factors.b.dims());
        assert!(r > 0, "lora: a rank of at least one");
        assert_eq!(width, d_in, "lora: A must be [r, d_in]");
        assert_eq!([height, rank], [d_out, r], "lora: B must be [d_out, r]");
    }
    checked_rows(&segments, rows);
    if segments.is_empty() {
        return base.output(&x);
    }
    let frozen = Frozen::of(&x, &base);
    let base = match &frozen {
        Some(_) => None,
        None => Some(base.output(&x)),
    };
    let native = cpu::takes(&x) && base.as_ref().is_none_or(cpu::takes) && rows * d_in * d_out > 0;
    if let (false, Some(base)) = (native, &base) {
        let base = LoraBase::Output(base.clone());
        return if let [LoraSegment { rows: all, factors }] = segments.as_slice()
            && let [all] = all.as_slice()
            && *all == (0..rows)
        {
            reference::lora_linear(x, base, factors.clone())
        } else {
            reference::lora_segmented(x, base, segments)
        };
    }
    let plan = Arc::new(Plan::new(&segments));
    if let Some(frozen) = &frozen
        && segments.len() > 1
        && let Some(inputs) = apart(&x, &segments)
    {
        let y = frozen.forward(inputs.x.tensor().clone());
        let y = Tensor::from_primitive::<Flex>(flex::add(&inputs, y, &plan, false).0);
        return if x.is_autodiff() { y.autodiff() } else { y };
    }
    let (a, b) = joined(segments);
    let (x, a, b) = (x.into_dispatch(), a.into_dispatch(), b.into_dispatch());
    Tensor::from_dispatch(match (frozen, base) {
        (Some(frozen), _) => Dispatch::lora_frozen(x, a, b, frozen, plan),
        (None, Some(y)) => Dispatch::lora_add(x, a, b, y.into_dispatch(), plan),
        (None, None) => unreachable!("either the layer or its output is there"),
    })
}

/// Inputs and factors where they lie, if nobody trains any of them: joining the factors of many
/// adapters costs more than few rows' share of the product.
fn apart(x: &Tensor<2>, segments: &[LoraSegment]) -> Option<flex::Inputs> {
    let factor = |factor: &Tensor<2>| fixed(factor).filter(|_| cpu::takes(factor));
    let factors = segments
        .iter()
        .map(|segment| Some([factor(&segment.factors.a)?, factor(&segment.factors.b)?]))
        .collect::<Option<Vec<_>>>()?;
    flex::Inputs::apart(fixed(x)?, factors)
}

/// All adapters' factors as one pair: `A`s below and `B`s beside each other, in f32.
fn joined(segments: Vec<LoraSegment>) -> (Tensor<2>, Tensor<2>) {
    let wide = |factor: Tensor<2>| {
        if factor.dtype() == DType::F32 {
            factor
        } else {
            factor.cast(DType::F32)
        }
    };
    let (mut a, mut b): (Vec<_>, Vec<_>) = segments
        .into_iter()
        .map(|LoraSegment { factors, .. }| (wide(factors.a), wide(factors.b)))
        .unzip();
    if a.len() == 1
        && let (Some(a), Some(b)) = (a.pop(), b.pop())
    {
        return (a, b);
    }
    (Tensor::cat(a, 0), Tensor::cat(b, 1))
}

/// Checks that the ranges lie in the matrix and apart from each other.
fn checked_rows(segments: &[LoraSegment], rows: usize) {
    let ranges = segments.iter().flat_map(|segment| &segment.rows);
    let mut ranges: Vec<&Range<usize>> = ranges.filter(|range| !range.is_empty()).collect();
    ranges.sort_by_key(|range| range.start);
    let mut end = 0;
    for range in ranges {
        assert!(
            range.start >= end && range.end <= rows,
            "lora: rows {range:?} overlap others or exceed {rows}"
        );
        end = range.end;
    }
}
