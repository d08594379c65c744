//! From a configuration to the parts of an adapter in each slot.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use flametune_quant::BaseLinear;

use crate::bias::BiasMode;
use crate::bottleneck::{BottleneckAdapter, SublayerSlot};
use crate::config::CommonConfig;
use crate::error::{Error, Result};
use crate::prompt::{PromptMethod, PromptSlot};
use crate::random::text_key;
use crate::slots::{EmbeddingMethod, LinearMethod, NormMethod};
use crate::targets::{Ranks, Targeting};

/// The module that a part is built for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    /// The name of the module.
    pub(crate) path: &'a str,
    /// The seed of the whole adapter.
    pub(crate) seed: u64,
    /// Whether it is the embedding of the model's input.
    pub(crate) is_input: bool,
}

impl Site<'_> {
    /// The seed, and a number that stands for the module.
    pub(crate) fn keys(&self) -> (u64, u64) {
        (self.seed, text_key(self.path))
    }
}

/// The modules of a model, as a method sees them before it is put into any.
#[derive(Debug, Clone)]
pub(crate) struct Modules<'a> {
    /// Those that were chosen.
    pub(crate) adapted: Vec<Adapted<'a>>,
    /// The names of all embeddings.
    pub(crate) embeddings: Vec<&'a str>,
}

impl<'a> Modules<'a> {
    /// The names of those that were chosen.
    pub(crate) fn adapted_paths(&self) -> Vec<&'a str> {
        self.adapted.iter().map(|module| module.path).collect()
    }
}

/// A module that was chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adapted<'a> {
    /// Its name.
    pub(crate) path: &'a str,
    /// `[d_out, d_in]` of a linear layer.
    pub(crate) shape: Option<[usize; 2]>,
}

/// What the configuration of a method says.
pub(crate) trait MethodConfig {
    /// The fields that every method has.
    fn common(&self) -> &CommonConfig;

    /// The same, to be changed.
    fn common_mut(&mut self) -> &mut CommonConfig;

    /// Checks everything that can be checked without a model.
    fn validate(&self) -> Result<()>;

    /// What chooses the modules; nothing does for methods that have places of their own.
    fn targeting(&self) -> Targeting<'_> {
        Targeting::NOTHING
    }

    /// Whether the embedding of the input is adapted when no module is named.
    fn targets_input(&self) -> bool {
        false
    }

    /// The largest rank that a part may have, of methods whose parameters have it as a dimension.
    fn largest_rank(&self) -> usize {
        0
    }

    /// Which biases of the base are trained.
    fn bias(&self) -> BiasMode {
        BiasMode::None
    }

    /// Whether the file carries the base of embeddings and heads that are named.
    fn stores_base(&self) -> bool {
        true
    }

    /// What builds the parts.
    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>>;
}

/// The common fields of a configuration that has them under `common`.
macro_rules! common_field {
    () => {
        fn common(&self) -> &CommonConfig {
            &self.common
        }

        fn common_mut(&mut self) -> &mut CommonConfig {
            &mut self.common
        }
    };
}

/// What chooses the modules, of a configuration that has all of PEFT's fields for it.
macro_rules! usual_targets {
    ($($vis:tt)*) => {
        $($vis)* fn targeting(&self) -> crate::targets::Targeting<'_> {
            crate::targets::Targeting {
                target_modules: self.target_modules.as_ref(),
                exclude_modules: self.exclude_modules.as_ref(),
                layers_to_transform: self.layers_to_transform.as_ref(),
                layers_pattern: self.layers_pattern.as_ref(),
                modules_to_save: self.modules_to_save.as_deref().unwrap_or_default(),
                optional_heads: self.common.optional_heads(),
            }
        }
    };
}

pub(crate) use {common_field, usual_targets};

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

    /// A part that goes on an embedding beside what `target_modules` says.
    fn beside(&self, site: &Site<'_>, weight: &Tensor<2>) -> Result<Option<EmbeddingMethod>> {
        let _ = (site, weight);
        Ok(None)
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

    /// The virtual tokens, of methods that have some.
    fn prompt(&self, site: &Site<'_>, slot: &PromptSlot<'_>) -> Result<Option<PromptMethod>> {
        let _ = (site, slot);
        Ok(None)
    }

    /// The part on a sublayer, of methods that have one there.
    fn sublayer(
        &self,
        site: &Site<'_>,
        slot: &SublayerSlot<'_>,
    ) -> Result<Option<BottleneckAdapter>> {
        let _ = (site, slot);
        Ok(None)
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

type MakePart<C> = fn(&C, &BaseLinear, (usize, f64), (u64, u64)) -> LinearMethod;

/// Builds the parts of a method whose modules differ in rank and scaling alone.
pub(crate) struct RankedBuilder<'a, C> {
    /// The method as error messages call it.
    pub(crate) method: &'static str,
    /// Its configuration.
    pub(crate) config: &'a C,
    /// The rank and the numerator of the scaling of each module.
    pub(crate) ranks: Ranks,
    /// Makes a part of a rank and a numerator; the last are the keys of its random numbers.
    pub(crate) part: MakePart<C>,
}

impl<C> Build for RankedBuilder<'_, C> {
    fn method(&self) -> &'static str {
        self.method
    }

    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        let rank = self.ranks.get(site.path);
        Ok((self.part)(self.config, base, rank, site.keys()))
    }
}

/// The largest of a rank and of those of modules that differ.
pub(crate) fn largest(r: usize, rank_pattern: &BTreeMap<String, usize>) -> usize {
    rank_pattern.values().copied().fold(r, usize::max)
}
