//! The parts of an `AdaLoRA` adapter, each with the rank that was allocated to it.

use burn::tensor::Tensor;
use flametune_quant::BaseLinear;

use super::{AdaLoraConfig, AdaLoraLinear};
use crate::build::{Build, Modules, Site};
use crate::error::Result;
use crate::lora::beside_lora;
use crate::slots::{EmbeddingMethod, LinearMethod};
use crate::targets::no_match;

/// What follows the name of a module in the keys of `rank_pattern`.
pub(super) const SINGULAR_VALUES: &str = ".lora_E";

/// Builds the parts of one adapter.
pub(super) struct AdaLoraBuilder<'a> {
    config: &'a AdaLoraConfig,
}

impl<'a> AdaLoraBuilder<'a> {
    pub(super) fn new(config: &'a AdaLoraConfig, modules: &Modules<'_>) -> Result<Self> {
        let paths = modules.adapted_paths();
        for key in config.rank_pattern.iter().flatten().map(|(key, _)| key) {
            let path = key.strip_suffix(SINGULAR_VALUES);
            if !path.is_some_and(|path| paths.contains(&path)) {
                return Err(no_match("rank_pattern", key, &paths));
            }
        }
        if let Some(tokens) = &config.lora.trainable_token_indices {
            tokens.check("trainable_token_indices", &modules.embeddings)?;
        }
        Ok(Self { config })
    }

    /// The rank of a module: as many as were kept, or all.
    fn rank(&self, path: &str) -> usize {
        let pattern = self.config.rank_pattern.as_ref();
        match pattern.and_then(|pattern| pattern.get(&format!("{path}{SINGULAR_VALUES}"))) {
            Some(kept) => kept.iter().filter(|&&kept| kept).count(),
            None => self.config.init_r,
        }
    }
}

impl Build for AdaLoraBuilder<'_> {
    fn method(&self) -> &'static str {
        "AdaLoRA"
    }

    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        let part = AdaLoraLinear::init(self.config, base, self.rank(site.path), site.keys());
        Ok(LinearMethod::AdaLora(part))
    }

    fn beside(&self, site: &Site<'_>, weight: &Tensor<2>) -> Result<Option<EmbeddingMethod>> {
        beside_lora(&self.config.lora, site, weight)
    }
}
