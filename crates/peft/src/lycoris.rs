//! What `LoHa` and `LoKr` share: most of their configurations, and how they drop parts of the update.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::build::usual_targets;
use crate::check;
use crate::config::{CommonConfig, number, number_map};
use crate::error::Result;
use crate::selection::Dropout;
use crate::targets::{OneOrMany, Ranks, TargetModules};

/// The fields that `LoHa` and `LoKr` share, under PEFT's names and with PEFT's defaults.
///
/// # Source
/// - reference: peft `tuners/loha/config.py::LoHaConfig`, `tuners/lokr/config.py::LoKrConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LycorisConfig {
    /// The fields that every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The rank.
    pub r: usize,
    /// The numerator of the scaling `alpha / r`.
    #[serde(with = "number")]
    pub alpha: f64,
    /// The probability of dropping an output of the update in training.
    pub rank_dropout: f64,
    /// The probability of dropping the whole update in training.
    pub module_dropout: f64,
    /// For convolutions; without effect on linear layers.
    pub use_effective_conv2d: bool,
    /// The modules to adapt.
    pub target_modules: Option<TargetModules>,
    /// Modules that are left out even if `target_modules` matches them.
    pub exclude_modules: Option<TargetModules>,
    /// The layers to adapt; all of them when absent.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// The name of the list of layers, when the first number in a name is not the layer's.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Ranks of modules that differ from `r`, by regular expressions on the ends of names; the
    /// first in sorted order that matches counts.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Numerators that differ from `alpha`, likewise.
    #[serde(with = "number_map")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// Everything else in the file, kept as it is.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for LycorisConfig {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            r: 8,
            alpha: 8.0,
            rank_dropout: 0.0,
            module_dropout: 0.0,
            use_effective_conv2d: false,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            modules_to_save: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            extra: Map::new(),
        }
    }
}

impl LycorisConfig {
    usual_targets!(pub(crate));

    pub(crate) fn validate(&self) -> Result<()> {
        check::given(self.target_modules.as_ref())?;
        check::ranks(self.r, &self.rank_pattern)?;
        check::alphas("alpha", self.alpha, &self.alpha_pattern)?;
        check::dropout("rank_dropout", self.rank_dropout)?;
        check::dropout("module_dropout", self.module_dropout)
    }

    /// The rank and the numerator of each of these modules.
    pub(crate) fn ranks(&self, paths: &[&str]) -> Result<Ranks> {
        Ranks::new(
            (self.r, &self.rank_pattern),
            (self.alpha, &self.alpha_pattern),
            paths,
        )
    }

    /// What is dropped in a module; `key` stands for it.
    pub(crate) fn dropout(&self, rescale: bool, key: u64) -> UpdateDropout {
        UpdateDropout {
            rank_dropout: self.rank_dropout,
            rescale,
            module_dropout: self.module_dropout,
            key,
        }
    }
}

/// The dropout of whole updates and of outputs of updates.
///
/// # Source
/// - reference: peft `tuners/loha/layer.py::LoHaLayer.get_delta_weight`, `forward`
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct UpdateDropout {
    /// The probability of dropping each output of the update.
    pub(crate) rank_dropout: f64,
    /// Whether the outputs that are left are scaled to keep their mean.
    pub(crate) rescale: bool,
    /// The probability of dropping the whole update.
    pub(crate) module_dropout: f64,
    /// Chooses the random numbers.
    pub(crate) key: u64,
}

impl UpdateDropout {
    /// Whether this pass leaves the whole update out.
    pub(crate) fn drops_all(&self, dropout: &Dropout<'_>) -> bool {
        let draw = dropout.draw(self.key, u64::MAX);
        draw.is_some_and(|draw| draw < self.module_dropout)
    }

    /// Drops outputs of the update, `[rows, d_out]`.
    pub(crate) fn apply(&self, update: Tensor<2>, dropout: &Dropout<'_>) -> Tensor<2> {
        if !dropout.is_active(self.rank_dropout) {
            return update;
        }
        let [_, d_out] = update.dims();
        let gains = self.gains(d_out, dropout, (&update.device(), update.dtype()));
        update * gains
    }

    #[expect(clippy::cast_precision_loss, reason = "widths are small")]
    fn gains(&self, d_out: usize, dropout: &Dropout<'_>, place: (&Device, DType)) -> Tensor<2> {
        let mut gains: Vec<f32> = (0..d_out as u64)
            .map(|output| match dropout.draw(self.key, output) {
                Some(draw) if draw < self.rank_dropout => 0.0,
                _ => 1.0,
            })
            .collect();
        let kept: f32 = gains.iter().sum();
        if self.rescale && kept > 0.0 {
            let scale = d_out as f32 / kept;
            gains.iter_mut().for_each(|gain| *gain *= scale);
        }
        Tensor::from_data(TensorData::new(gains, [1, d_out]), place)
    }
}
