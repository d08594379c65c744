//! Weights that multiply: dense linear layers and the block formats of GGUF files.
//!
//! Layer 1: stands on `kernels`; adapters and models stand on it.
//!
//! ```no_run
//! use flametune_quant::gguf::GgufFile;
//!
//! # fn main() -> flametune_quant::Result<()> {
//! let file = GgufFile::open("model.gguf")?;
//! let architecture = file.metadata().require::<&str>("general.architecture")?;
//! let embedding: Vec<f32> = file.dequantize("token_embd.weight")?;
//! # let _ = (architecture, embedding);
//! # Ok(())
//! # }
//! ```
//!
//! - [`BaseLinear`]: the frozen layer under an adapter
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

mod error;
pub mod gguf;
mod linear;

pub use error::{Error, Result};
pub use linear::{BaseLinear, DenseLinear};
