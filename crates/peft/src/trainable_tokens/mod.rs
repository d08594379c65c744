//! Trained rows of an embedding, alone or beside another method.

mod build;
mod config;
mod embedding;
mod indices;

pub use config::TrainableTokensConfig;
pub use embedding::TrainableTokens;
pub use indices::TokenIndices;

use build::TokensBuilder;
