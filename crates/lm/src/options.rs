//! Where and in which number formats a model is loaded.

use burn::tensor::{DType, Device};
use flametune_kernels::Precision;
use flametune_quant::{QuantConfig, SKIPPED_NAMES, should_quantize_except};

/// Where and in which number formats a model is loaded.
///
/// # Examples
/// ```
/// use burn::tensor::{DType, Device};
/// use flametune_lm::{LoadOptions, QuantizeOptions};
/// use flametune_quant::QuantConfig;
///
/// let nf4 = QuantizeOptions::new(QuantConfig::default());
/// assert!(nf4.quantizes("model.layers.0.mlp.up_proj.weight"));
/// assert!(!nf4.quantizes("lm_head.weight"));
/// let options = LoadOptions::new(&Device::flex(), DType::BF16, DType::F32).with_quantize(nf4);
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The device that holds the parameters.
    pub device: Device,
    /// The dtype of linear and embedding weights in memory: F32, BF16 or F16.
    pub weight_dtype: DType,
    /// The dtype of activations and norms: F32, or the weights' dtype.
    pub compute_dtype: DType,
    /// What to quantize while loading; nothing if `None`.
    pub quantize: Option<QuantizeOptions>,
    /// How exactly linear layers multiply, the head among them.
    pub precision: Precision,
}

impl LoadOptions {
    /// Weights and activations of these types, multiplied in full precision.
    pub fn new(device: &Device, weight_dtype: DType, compute_dtype: DType) -> Self {
        Self {
            device: device.clone(),
            weight_dtype,
            compute_dtype,
            quantize: None,
            precision: Precision::Full,
        }
    }

    /// Everything in f32.
    pub fn f32(device: &Device) -> Self {
        Self::new(device, DType::F32, DType::F32)
    }

    /// The same, with linear layers quantized while they are loaded.
    #[must_use]
    pub fn with_quantize(mut self, quantize: QuantizeOptions) -> Self {
        self.quantize = Some(quantize);
        self
    }

    /// The same, with products of another precision.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }
}

/// Which linear layers are quantized while a model is loaded, and to what.
///
/// Embeddings are never quantized, and with them a head that is the embedding's matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizeOptions {
    /// What each weight becomes.
    pub config: QuantConfig,
    /// The layers that stay dense: components of dotted names, as
    /// [`should_quantize_except`] takes them.
    pub skipped: Vec<String>,
}

impl QuantizeOptions {
    /// Every linear layer but heads and routers, those of [`SKIPPED_NAMES`].
    pub fn new(config: QuantConfig) -> Self {
        Self {
            config,
            skipped: SKIPPED_NAMES.map(str::to_owned).to_vec(),
        }
    }

    /// The same with other layers left dense.
    #[must_use]
    pub fn with_skipped(mut self, skipped: Vec<String>) -> Self {
        self.skipped = skipped;
        self
    }

    /// Whether the linear layer with a weight of this name is quantized.
    pub fn quantizes(&self, weight: &str) -> bool {
        should_quantize_except(weight, &self.skipped)
    }
}
