//! Weights that multiply: dense linear layers, 4- and 8-bit quantization, and the files they come in.
//!
//! Layer 1: stands on `kernels`; adapters and models stand on it.
//!
//! ```
//! use flametune_quant::{QuantConfig, bnb_layout, quantize};
//!
//! let weight: Vec<f32> = (0..768).map(|i| (i as f32).sin()).collect();
//! let packed = quantize(&weight, &[24, 32], QuantConfig::default())?;
//! let restored = packed.dequantize();
//! assert!(weight.iter().zip(restored).all(|(w, q)| (w - q).abs() < 0.2));
//!
//! // As bitsandbytes stores it, and back.
//! let stored = bnb_layout::write("q_proj.weight", &packed)?;
//! let find = |name: &str| stored.iter().find(|(n, _)| n == name).map(|(_, part)| part.clone());
//! assert_eq!(bnb_layout::read("q_proj.weight", find)?, packed);
//! # Ok::<(), flametune_quant::Error>(())
//! ```
//!
//! - [`BaseLinear`]: the frozen layer under an adapter, a [`DenseLinear`] or a [`QuantLinear`]
//! - [`quantize`], [`QuantTensor`], [`QuantConfig`]: NF4, FP4 and int8 weights, bit for bit those of bitsandbytes
//! - [`Codebook`], [`nf4_codebook`], [`fp4_codebook`], [`Map8`]: the numbers that codes stand for
//! - [`Scales`], [`NestedScales`]: scales, plain and double-quantized
//! - [`Blockwise8`], [`Int8Rows`]: eight bits for optimizer states and for activations
//! - [`bnb_layout`]: bitsandbytes' 4-bit and 8-bit checkpoints
//! - [`should_quantize`]: which layers of a model are quantized
//! - [`gguf`]: header, metadata, tensors and vocabulary of a GGUF file
//!
//! Not here: which tensor of a file is which layer of a model (crate `lm`), tokenizers (crate `data`).

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod blocks;
mod blockwise8;
pub mod bnb_layout;
mod codebook;
mod config;
mod double_quant;
mod error;
mod float;
mod four_bit;
mod fp4;
pub mod gguf;
mod int8;
mod linear;
mod linspace;
mod map8;
mod nf4;
mod quant_linear;
mod scales;
mod skip;
mod tensor;
mod torch_mean;

pub use blockwise8::Blockwise8;
pub use codebook::Codebook;
pub use config::{BLOCK_SIZES, QuantConfig, QuantKind, WeightDtype};
pub use double_quant::{NESTED_BLOCK_SIZE, NestedScales};
pub use error::{Error, Result};
pub use float::WeightFloat;
pub use fp4::fp4_codebook;
pub use int8::Int8Rows;
pub use linear::{BaseLinear, DenseLinear};
pub use map8::Map8;
pub use nf4::nf4_codebook;
pub use quant_linear::{QuantLinear, StoredPart};
pub use scales::Scales;
pub use skip::{SKIPPED_ENDINGS, SKIPPED_NAMES, should_quantize, should_quantize_except};
pub use tensor::{QuantTensor, quantize};
