//! Layers that several architectures share.

mod embedding;
mod norm;

pub use embedding::TokenEmbedding;
pub use norm::NormLayer;
