//! The parts of an adapter of single rows.

use burn::module::Param;
use burn::tensor::{DType, Tensor};

use super::{TrainableTokens, TrainableTokensConfig};
use crate::build::{Build, Site};
use crate::error::Result;
use crate::random::Stream;
use crate::slots::EmbeddingMethod;

/// Builds the parts of one adapter.
pub(super) struct TokensBuilder<'a> {
    config: &'a TrainableTokensConfig,
}

impl<'a> TokensBuilder<'a> {
    pub(super) fn new(config: &'a TrainableTokensConfig) -> Self {
        Self { config }
    }
}

impl Build for TokensBuilder<'_> {
    fn method(&self) -> &'static str {
        "trainable tokens"
    }

    fn embedding(&self, site: &Site<'_>, weight: &Tensor<2>) -> Result<EmbeddingMethod> {
        let mut tokens = TrainableTokens::of(weight, &self.config.token_indices, "token_indices")?;
        if !self.config.init_weights {
            let (seed, key) = site.keys();
            let shape = tokens.trainable_tokens_delta.dims();
            let place = (&weight.device(), DType::F32);
            let rows = Stream::new(&[seed, key]).normal_tensor(shape, 1.0, place);
            tokens.trainable_tokens_delta = Param::from_tensor(rows);
        }
        Ok(EmbeddingMethod::Tokens(tokens))
    }
}
