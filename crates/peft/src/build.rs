//! From a configuration to the parts of an adapter in each slot.

use burn::tensor::Tensor;
use flametune_quant::BaseLinear;

use crate::config::PeftConfig;
use crate::error::{Error, Result};
use crate::lora::{BiasMode, LoraBuilder};
use crate::random::text_key;
use crate::slots::{EmbeddingMethod, LinearMethod, NormMethod};
use crate::targets::Targeting;

/// The module that a part is built for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    /// The name of the module.
    pub(crate) path: &'a str,
    /// The seed of the whole adapter.
    pub(crate) seed: u64,
}

impl Site<'_> {
    /// The seed, and a number that stands for the module.
    pub(crate) fn keys(&self) -> (u64, u64) {
        (self.seed, text_key(self.path))
    }
}

/// What a method must offer to be put into slots; kinds of modules that it cannot adapt keep the
/// default.
pub(crate) trait Build {
    /// The method as error messages call it.
    fn method(&self) -> &'static str;

    /// The part for a linear layer.
    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        let _ = base;
        Err(self.unsupported(site, "a linear layer"))
    }

    /// The part for an embedding.
    fn embedding(&self, site: &Site<'_>, weight: &Tensor<2>) -> Result<EmbeddingMethod> {
        let _ = weight;
        Err(self.unsupported(site, "an embedding"))
    }

    /// The part for a normalisation with this scale and shift.
    fn norm(
        &self,
        site: &Site<'_>,
        weight: &Tensor<1>,
        bias: Option<&Tensor<1>>,
    ) -> Result<NormMethod> {
        let _ = (weight, bias);
        Err(self.unsupported(site, "a normalisation"))
    }

    /// The error for a module of a kind that the method cannot adapt.
    fn unsupported(&self, site: &Site<'_>, kind: &'static str) -> Error {
        Error::UnsupportedModule {
            method: self.method(),
            module: site.path.to_owned(),
            kind,
        }
    }
}

impl PeftConfig {
    /// What chooses the modules.
    pub(crate) fn targeting(&self) -> Targeting<'_> {
        match self {
            Self::Lora(config) => config.targeting(),
        }
    }

    /// Which biases of the base are trained.
    pub(crate) fn bias(&self) -> BiasMode {
        match self {
            Self::Lora(config) => config.bias,
        }
    }

    /// What builds the parts, for the modules that were chosen.
    pub(crate) fn builder(&self, adapted: &[&str]) -> Result<Box<dyn Build + '_>> {
        Ok(match self {
            Self::Lora(config) => Box::new(LoraBuilder::new(config, adapted)?),
        })
    }
}
