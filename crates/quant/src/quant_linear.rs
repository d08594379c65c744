//! A linear layer whose weight stays packed.

mod scales;
mod stored;
#[cfg(test)]
mod tests;
mod words;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};
use flametune_kernels::{CodeFormat, PackedWeight, Precision, packed_linear};

use self::scales::DeviceScales;
pub use self::stored::StoredPart;
use crate::config::{QuantConfig, QuantKind};
use crate::error::{Error, Result};
use crate::linear::DenseLinear;
use crate::tensor::{QuantTensor, quantize};

/// A frozen linear layer with NF4, FP4 or int8 weights: `y = x·dequantize(W)ᵀ + b`.
///
/// Codes and scales lie on the device as they lie in a [`QuantTensor`], double-quantized scales
/// included, and go back to one without a change of a bit.
/// None of its parameters asks for a gradient.
///
/// # Shapes
/// - the weight is `[d_out, d_in]`, `bias`: `[d_out]`
///
/// # Source
/// - Dettmers et al. 2023, QLoRA, arXiv:2305.14314, §3, eq. (5)
///
/// # Examples
/// ```
/// use burn::module::Param;
/// use burn::tensor::{Device, Tensor};
/// use flametune_quant::{DenseLinear, QuantConfig, QuantLinear};
///
/// let weight = Tensor::from_floats([[1.0, -1.0], [0.0, 1.0]], &Device::flex());
/// let dense = DenseLinear::new(Param::from_tensor(weight), None);
/// let layer = QuantLinear::quantize(&dense, QuantConfig::default())?;
/// let y = layer.forward(Tensor::<2>::from_floats([[3.0, 2.0]], &Device::flex()));
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0]);
/// # Ok::<(), flametune_quant::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct QuantLinear {
    codes: Param<Tensor<1, Int>>,
    scales: DeviceScales,
    /// The numbers of 4-bit codes.
    codebook: Option<Tensor<1>>,
    /// The additive bias, if the layer has one.
    pub bias: Option<Param<Tensor<1>>>,
    /// Whether the dense weight is stored transposed on disk, as GPT-2's `Conv1D` is.
    ///
    /// Codes run along the rows of `[d_out, d_in]` in either case, in files too.
    #[module(skip)]
    pub fan_in_fan_out: bool,
    /// How exactly the product multiplies.
    #[module(skip)]
    pub precision: Precision,
    #[module(skip)]
    config: QuantConfig,
    #[module(skip)]
    shape: [usize; 2],
}

impl QuantLinear {
    /// Brings a quantized weight to `device`; the layer multiplies in full precision.
    ///
    /// # Errors
    /// - [`Error::NotAMatrix`] for a weight of other than two dimensions
    /// - [`Error::Length`] when `bias` is not `[d_out]`
    pub fn from_quant_tensor(
        tensor: &QuantTensor,
        bias: Option<Param<Tensor<1>>>,
        device: &Device,
    ) -> Result<Self> {
        let &[d_out, d_in] = tensor.shape() else {
            return Err(Error::NotAMatrix {
                shape: tensor.shape().to_vec(),
            });
        };
        if let Some([got]) = bias.as_ref().map(|bias| bias.dims())
            && got != d_out
        {
            return Err(Error::Length {
                what: "bias",
                expected: d_out,
                got,
            });
        }
        let codebook = tensor.kind().codebook().map(|codebook| {
            let values = TensorData::new(codebook.values().to_vec(), [16]);
            words::floats(values, device)
        });
        Ok(Self {
            codes: frozen_ints(words::upload(tensor.codes(), device)),
            scales: DeviceScales::upload(tensor.scales(), device),
            codebook,
            bias: bias.map(|bias| bias.set_require_grad(false)),
            fan_in_fan_out: false,
            precision: Precision::Full,
            config: tensor.config(),
            shape: [d_out, d_in],
        })
    }

    /// Quantizes a dense layer, on the device where it is.
    ///
    /// # Errors
    /// Those of [`quantize`].
    pub fn quantize(dense: &DenseLinear, config: QuantConfig) -> Result<Self> {
        let weight = dense.weight.val();
        let (device, shape) = (weight.device(), weight.dims());
        let numbers: Vec<f32> = weight.into_data().iter::<f32>().collect();
        let tensor = quantize(&numbers, &shape, config)?;
        let layer = Self::from_quant_tensor(&tensor, dense.bias.clone(), &device)?;
        Ok(Self {
            fan_in_fan_out: dense.fan_in_fan_out,
            precision: dense.precision,
            ..layer
        })
    }

    /// Reads the weight back from the device.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when a scale on the device is no longer finite.
    pub fn to_quant_tensor(&self) -> Result<QuantTensor> {
        let codes = words::download(&self.codes.val(), self.config.kind.code_bytes(self.numel()));
        let scales = self.scales.download(self.n_blocks());
        QuantTensor::from_parts(self.config, self.shape.to_vec(), codes, scales)
    }

    /// Computes `x·Wᵀ + b`, without making `W`.
    ///
    /// Differentiable in `x`.
    ///
    /// # Shapes
    /// - `x`: `[.., d_in]`, returns `[.., d_out]`, dtype of `x`
    ///
    /// # Panics
    /// When the last dimension of `x` is not `d_in`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        packed_linear(x, &self.packed_weight(), bias, self.precision)
    }

    /// The numbers of the weight in f32, `[d_out, d_in]`.
    pub fn dequantize(&self) -> Tensor<2> {
        flametune_kernels::dequantize(&self.packed_weight())
    }

    /// The weight as the kernels take it; nothing is copied.
    pub fn packed_weight(&self) -> PackedWeight {
        let format = match &self.codebook {
            Some(codebook) => CodeFormat::FourBit {
                codebook: codebook.clone(),
            },
            None => CodeFormat::Int8,
        };
        PackedWeight::new(
            self.shape,
            self.block_size(),
            format,
            self.codes.val(),
            self.scales.packed(),
        )
    }

    /// How the numbers are stored.
    pub fn kind(&self) -> QuantKind {
        self.config.kind
    }

    /// Kind, block size, double quantization and logical dtype.
    pub fn config(&self) -> QuantConfig {
        self.config
    }

    /// The numbers that share a scale; of row-wise kinds the length of a row.
    pub fn block_size(&self) -> usize {
        self.config.block_size_of(&self.shape)
    }

    /// The device of codes and scales.
    pub fn device(&self) -> Device {
        self.codes.device()
    }

    /// The width of the input.
    pub fn d_in(&self) -> usize {
        self.shape[1]
    }

    /// The width of the output.
    pub fn d_out(&self) -> usize {
        self.shape[0]
    }

    /// The bytes of codes and scales, as [`QuantTensor::bytes`] counts them.
    pub fn bytes(&self) -> usize {
        self.config.kind.code_bytes(self.numel()) + self.scales.bytes(self.n_blocks())
    }

    /// `8·bytes / (d_out·d_in)`.
    pub fn bits_per_param(&self) -> f64 {
        8.0 * self.bytes() as f64 / self.numel() as f64
    }

    fn numel(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    fn n_blocks(&self) -> usize {
        self.numel().div_ceil(self.block_size())
    }
}

fn frozen_ints(tensor: Tensor<1, Int>) -> Param<Tensor<1, Int>> {
    Param::initialized(ParamId::new(), tensor)
}

fn frozen(tensor: Tensor<1>) -> Param<Tensor<1>> {
    // Unlike `Param::from_tensor`, which marks the parameter as one to be trained.
    Param::initialized(ParamId::new(), tensor)
}
