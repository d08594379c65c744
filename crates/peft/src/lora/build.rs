//! The parts of a LoRA adapter, each with its own rank and scaling.

use burn::tensor::Tensor;
use flametune_quant::BaseLinear;

use super::{LoraConfig, LoraEmbedding, LoraLinear};
use crate::build::{Build, Modules, Site};
use crate::error::{Error, Result};
use crate::slots::{EmbeddingMethod, LinearMethod};
use crate::targets::Patterns;
use crate::trainable_tokens::TrainableTokens;

/// Builds the parts of one adapter.
pub(crate) struct LoraBuilder<'a> {
    config: &'a LoraConfig,
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
}

impl<'a> LoraBuilder<'a> {
    pub(crate) fn new(config: &'a LoraConfig, modules: &Modules<'_>) -> Result<Self> {
        let adapted = &modules.adapted_paths();
        if let Some(tokens) = &config.trainable_token_indices {
            tokens.check("trainable_token_indices", &modules.embeddings)?;
        }
        let ranks = Patterns::new("rank_pattern", &config.rank_pattern)?;
        let alphas = Patterns::new("alpha_pattern", &config.alpha_pattern)?;
        ranks.check("rank_pattern", &config.rank_pattern, adapted)?;
        alphas.check("alpha_pattern", &config.alpha_pattern, adapted)?;
        Ok(Self {
            config,
            ranks,
            alphas,
        })
    }

    fn rank_and_alpha(&self, path: &str) -> (usize, f64) {
        let r = self.ranks.get(path).unwrap_or(self.config.r);
        let alpha = self.alphas.get(path).unwrap_or(self.config.lora_alpha);
        (r, alpha)
    }
}

impl Build for LoraBuilder<'_> {
    fn method(&self) -> &'static str {
        "LoRA"
    }

    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        let rank = self.rank_and_alpha(site.path);
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
        if self.config.init_lora_weights.takes_from_base() {
            return Err(Error::UnsupportedOption {
                field: "init_lora_weights",
                value: "on an embedding".to_owned(),
                hint: "decompositions of the base are for linear layers",
            });
        }
        let rank = self.rank_and_alpha(site.path);
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
