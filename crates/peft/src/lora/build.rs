//! The parts of a LoRA adapter, each with its own rank and scaling.

use burn::tensor::Tensor;
use flametune_quant::BaseLinear;

use super::{InitLoraWeights, LoraConfig, LoraEmbedding, LoraLinear};
use crate::build::{Build, Modules, Site};
use crate::error::{Error, Result};
use crate::slots::{EmbeddingMethod, LinearMethod};
use crate::targets::Ranks;
use crate::trainable_tokens::TrainableTokens;

/// Builds the parts of one adapter.
pub(crate) struct LoraBuilder<'a> {
    config: &'a LoraConfig,
    ranks: Ranks,
}

impl<'a> LoraBuilder<'a> {
    pub(crate) fn new(config: &'a LoraConfig, modules: &Modules<'_>) -> Result<Self> {
        if let Some(tokens) = &config.trainable_token_indices {
            tokens.check("trainable_token_indices", &modules.embeddings)?;
        }
        let ranks = Ranks::new(
            (config.r, &config.rank_pattern),
            (config.lora_alpha, &config.alpha_pattern),
            &modules.adapted_paths(),
        )?;
        Ok(Self { config, ranks })
    }
}

impl Build for LoraBuilder<'_> {
    fn method(&self) -> &'static str {
        "LoRA"
    }

    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        let rank = self.ranks.get(site.path);
        let lora = LoraLinear::init(self.config, base, rank, site.keys())?;
        Ok(LinearMethod::Lora(lora))
    }

    fn embedding(&self, site: &Site<'_>, weight: &Tensor<2>) -> Result<EmbeddingMethod> {
        if self.config.lora_bias {
            return Err(Error::UnsupportedOption {
                field: "lora_bias",
                value: "true".to_owned(),
                hint: "LoRA on an embedding has no bias",
            });
        }
        let init = &self.config.init_lora_weights;
        if init.takes_from_base() || *init == InitLoraWeights::Loftq {
            return Err(Error::UnsupportedOption {
                field: "init_lora_weights",
                value: "on an embedding".to_owned(),
                hint: "decompositions of the base are for linear layers",
            });
        }
        let rank = self.ranks.get(site.path);
        Ok(EmbeddingMethod::Lora(LoraEmbedding::init(
            self.config,
            weight,
            rank,
            site.keys(),
        )))
    }

    fn beside(&self, site: &Site<'_>, weight: &Tensor<2>) -> Result<Option<EmbeddingMethod>> {
        beside_lora(self.config, site, weight)
    }
}

/// The trained rows of an embedding beside LoRA.
pub(crate) fn beside_lora(
    config: &LoraConfig,
    site: &Site<'_>,
    weight: &Tensor<2>,
) -> Result<Option<EmbeddingMethod>> {
    let tokens = config.trainable_token_indices.as_ref();
    let Some(indices) = tokens.and_then(|tokens| tokens.of(site.path, site.is_input)) else {
        return Ok(None);
    };
    let tokens = TrainableTokens::of(weight, indices, "trainable_token_indices")?;
    Ok(Some(EmbeddingMethod::Tokens(
        tokens.beside_another_method(),
    )))
}
