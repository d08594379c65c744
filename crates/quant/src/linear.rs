//! Frozen linear layers: the base that adapters sit on.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use flametune_kernels::{Precision, linear_with, packed_linear};

use crate::quant_linear::QuantLinear;

/// The weight of a linear layer as ordinary floating-point numbers.
///
/// # Shapes
/// - `weight`: `[d_out, d_in]`, the layout of `torch.nn.Linear` and of the files
/// - `bias`: `[d_out]`
#[derive(Module, Debug)]
pub struct DenseLinear {
    /// The weight matrix, one row per output.
    pub weight: Param<Tensor<2>>,
    /// The additive bias, if the layer has one.
    pub bias: Option<Param<Tensor<1>>>,
    /// Whether the layer is stored transposed on disk (`[d_in, d_out]`), as GPT-2's `Conv1D` is.
    ///
    /// In memory the weight is always `[d_out, d_in]`; only reading and writing look at this.
    #[module(skip)]
    pub fan_in_fan_out: bool,
    /// How exactly the product multiplies.
    #[module(skip)]
    pub precision: Precision,
}

impl DenseLinear {
    /// A layer that multiplies in full precision, stored as it is in memory.
    pub fn new(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight,
            bias,
            fan_in_fan_out: false,
            precision: Precision::Full,
        }
    }
}

/// A linear layer whose weight is frozen while adapters train: `y = x·Wᵀ + b`.
#[expect(
    clippy::large_enum_variant,
    reason = "one a layer, and nothing beside its weights"
)]
#[derive(Module, Debug)]
pub enum BaseLinear {
    /// Floating-point weights, of the dtype they were loaded with.
    Dense(DenseLinear),
    /// NF4, FP4 or int8 weights, which are never made dense to be multiplied.
    Quant(QuantLinear),
}

impl BaseLinear {
    /// Computes `x·Wᵀ + b`.
    ///
    /// # Shapes
    /// - `x`: `[.., d_in]`
    /// - returns `[.., d_out]`, dtype of `x`
    ///
    /// # Panics
    /// When the last dimension of `x` is not `d_in`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.multiply(x, self.bias().map(Param::val))
    }

    /// Computes `x·Wᵀ`, without the bias.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn product<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.multiply(x, None)
    }

    fn multiply<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        match self {
            Self::Dense(dense) => linear_with(x, dense.weight.val(), bias, dense.precision),
            Self::Quant(quant) => packed_linear(x, &quant.packed_weight(), bias, quant.precision),
        }
    }

    /// The device of the weight.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(dense) => dense.weight.device(),
            Self::Quant(quant) => quant.device(),
        }
    }

    /// The dtype of the weight's numbers: the one it has, or had before it was quantized.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(dense) => dense.weight.dtype(),
            Self::Quant(quant) => quant.config().dtype.dtype(),
        }
    }

    /// The width of the input.
    pub fn d_in(&self) -> usize {
        match self {
            Self::Dense(dense) => dense.weight.dims()[1],
            Self::Quant(quant) => quant.d_in(),
        }
    }

    /// The width of the output.
    pub fn d_out(&self) -> usize {
        match self {
            Self::Dense(dense) => dense.weight.dims()[0],
            Self::Quant(quant) => quant.d_out(),
        }
    }

    /// Whether the dense weight is stored transposed on disk (GPT-2's `Conv1D`).
    pub fn fan_in_fan_out(&self) -> bool {
        match self {
            Self::Dense(dense) => dense.fan_in_fan_out,
            Self::Quant(quant) => quant.fan_in_fan_out,
        }
    }

    /// The additive bias, if the layer has one.
    pub fn bias(&self) -> Option<&Param<Tensor<1>>> {
        match self {
            Self::Dense(dense) => dense.bias.as_ref(),
            Self::Quant(quant) => quant.bias.as_ref(),
        }
    }

    /// How exactly the product multiplies.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Dense(dense) => dense.precision,
            Self::Quant(quant) => quant.precision,
        }
    }

    /// The same layer with products of another precision.
    #[must_use]
    pub fn with_precision(mut self, wanted: Precision) -> Self {
        match &mut self {
            Self::Dense(dense) => dense.precision = wanted,
            Self::Quant(quant) => quant.precision = wanted,
        }
        self
    }

    /// The numbers of the weight, `[d_out, d_in]`: as they are, or dequantized to f32.
    ///
    /// What computes goes through [`forward`](Self::forward), which needs no dense weight.
    pub fn dense_weight(&self) -> Tensor<2> {
        match self {
            Self::Dense(dense) => dense.weight.val(),
            Self::Quant(quant) => quant.dequantize(),
        }
    }

    /// The bytes of the weight on the device; the bias is not counted.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(dense) => {
                let weight = dense.weight.val();
                weight.shape().num_elements() * weight.dtype().size()
            }
            Self::Quant(quant) => quant.bytes(),
        }
    }

    /// `8·bytes / (d_out·d_in)`.
    pub fn bits_per_param(&self) -> f64 {
        8.0 * self.bytes() as f64 / (self.d_in() * self.d_out()) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense() -> DenseLinear {
        let device = Device::flex();
        let weight = Tensor::from_floats([[1., 2.], [3., 4.], [5., 6.]], &device);
        let bias = Tensor::from_floats([10., 20., 30.], &device);
        DenseLinear::new(Param::from_tensor(weight), Some(Param::from_tensor(bias)))
    }

    #[test]
    fn dense_forward_adds_the_bias_to_x_times_w_transposed() {
        let layer = BaseLinear::Dense(dense());
        let y = layer.forward(Tensor::<2>::from_floats([[1., -1.]], &Device::flex()));
        assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [9., 19., 29.]);
        assert_eq!((layer.d_in(), layer.d_out()), (2, 3));
        assert_eq!((layer.bytes(), layer.bits_per_param()), (24, 32.0));
    }

    #[test]
    fn bf16_products_round_both_operands() {
        let layer = BaseLinear::Dense(dense()).with_precision(Precision::Bf16);
        assert_eq!(layer.precision(), Precision::Bf16);
        // 1 + 2⁻⁹ is one and a half units of bf16 too fine, and rounds to 1.
        let x = Tensor::<2>::from_floats([[1.0 + 2_f32.powi(-9), 0.]], &Device::flex());
        let y = layer.forward(x).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(y, [11., 23., 35.]);
    }
}
