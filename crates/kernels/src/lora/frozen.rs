//! The layer below, as the native form takes it: not trained, on the CPU.

use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexTensor};

use super::LoraBase;
use crate::cpu::{self, Rows};
use crate::linear;
use crate::linear::product16::{self, LowRank, Orientation};
use crate::packed;
use crate::precision::Precision;

/// Weight and bias, which have no gradients.
#[allow(clippy::large_enum_variant, reason = "there is one of it in a pass")]
#[derive(Debug, Clone)]
pub(crate) enum Frozen {
    Dense {
        weight: FlexTensor,
        bias: Option<FlexTensor>,
        precision: Precision,
    },
    Packed {
        product: packed::Product,
        bias: Option<FlexTensor>,
    },
}

impl Frozen {
    /// The layer, if it is one that nobody trains and the native forms can take `x`.
    pub(super) fn of(x: &Tensor<2>, base: &LoraBase) -> Option<Self> {
        if !cpu::takes(x) || x.dims().contains(&0) {
            return None;
        }
        let biases = |bias: &Option<Tensor<1>>| match bias {
            None => Some(None),
            Some(bias) => fixed(bias).filter(|_| cpu::takes(bias)).map(Some),
        };
        match base {
            LoraBase::Output(_) => None,
            LoraBase::Dense {
                weight,
                bias,
                precision,
            } => {
                let known = matches!(weight.dtype(), DType::F32 | DType::BF16 | DType::F16);
                Some(Self::Dense {
                    weight: fixed(weight).filter(|_| known && !weight.dims().contains(&0))?,
                    bias: biases(bias)?,
                    precision: *precision,
                })
            }
            LoraBase::Packed {
                weight,
                bias,
                precision,
            } => Some(Self::Packed {
                product: packed::Product::of(weight, *precision)?,
                bias: biases(bias)?,
            }),
        }
    }

    pub(super) fn forward(&self, x: FlexTensor) -> FlexTensor {
        match self.clone() {
            Self::Dense {
                weight,
                bias,
                precision,
            } => linear::forward(x, weight, bias, precision),
            Self::Packed { product, bias } => packed::forward(x, &product, bias),
        }
    }

    pub(super) fn precision(&self) -> Precision {
        match self {
            Self::Dense { precision, .. } => *precision,
            Self::Packed { product, .. } => product.precision(),
        }
    }

    /// Whether the rows of the weight are runs of memory.
    pub(super) fn lies_in_rows(&self) -> bool {
        match self {
            Self::Dense { weight, .. } => linear::lies_in_rows(weight),
            Self::Packed { .. } => true,
        }
    }

    /// `x·Wᵀ + b`, and a low-rank product.
    pub(super) fn forward_and(&self, x: &Rows, more: LowRank<'_>) -> Vec<f32> {
        let (way, precision) = (Orientation::Rows, self.precision());
        match self.clone() {
            Self::Dense { weight, bias, .. } => {
                product16::product_and(x, &Rows::new(weight), more, way, bias, precision)
            }
            Self::Packed { product, bias } => packed::product_and(x, &product, more, way, bias),
        }
    }

    /// `dy·W`, and a low-rank product.
    pub(super) fn x_gradient_and(&self, dy: &Rows, more: LowRank<'_>) -> Vec<f32> {
        let (way, precision) = (Orientation::Columns, self.precision());
        match self {
            Self::Dense { weight, .. } => {
                let weight = Rows::new(weight.clone());
                product16::product_and(dy, &weight, more, way, None, precision)
            }
            Self::Packed { product, .. } => packed::product_and(dy, product, more, way, None),
        }
    }

    /// `dy·W`.
    pub(super) fn x_gradient(&self, dy: FlexTensor) -> FlexTensor {
        match self {
            Self::Dense {
                weight, precision, ..
            } => linear::x_gradient(dy, weight.clone(), *precision),
            Self::Packed { product, .. } => packed::x_gradient(dy, product),
        }
    }
}

/// The tensor behind one without a gradient on the CPU.
pub(super) fn fixed<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    if tensor.is_tracked() || !cpu::on_flex(tensor) {
        return None;
    }
    let tensor = tensor.clone().without_autodiff();
    tensor.try_into_primitive::<Flex>().ok()
}
