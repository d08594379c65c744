//! The configuration of LoRA, under PEFT's names and with PEFT's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LoraBuilder;
use super::eva::EvaConfig;
use super::loftq::LoftqConfig;
use crate::bias::BiasMode;
use crate::build::{Build, MethodConfig, Modules, common_field, largest, usual_targets};
use crate::check::{self, invalid};
use crate::config::{CommonConfig, SwitchOrName, number, number_map};
use crate::error::{Error, Result};
use crate::targets::{OneOrMany, TargetModules};
use crate::trainable_tokens::TokenIndices;

/// Options of other methods inside `LoraConfig`: active ones are refused by name.
const UNSUPPORTED: &[(&str, &str)] = &[
    (
        "alora_invocation_tokens",
        "activated LoRA is not implemented",
    ),
    (
        "arrow_config",
        "routing between adapters is not implemented",
    ),
    ("corda_config", "use another init_lora_weights"),
    (
        "ensure_weight_tying",
        "adapters of tied layers are independent",
    ),
    ("kasa_config", "KaSA is not implemented"),
    (
        "layer_replication",
        "replicate the layers in the base instead",
    ),
    ("lora_ga_config", "use another init_lora_weights"),
    ("megatron_config", "Megatron layers are not implemented"),
    ("monteclora_config", "Monteclora is not implemented"),
    (
        "target_parameters",
        "name modules in target_modules instead",
    ),
    ("use_bdlora", "block-diagonal factors are not implemented"),
    ("use_qalora", "QALoRA is not implemented"),
    ("velora_config", "VeLoRA is not implemented"),
];

/// The configuration of LoRA, rsLoRA and DoRA.
///
/// `scaling = lora_alpha / r`, or `lora_alpha / √r` with `use_rslora`.
///
/// # Source
/// - reference: peft `tuners/lora/config.py::LoraConfig` 0.21
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// The fields that every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The rank.
    pub r: usize,
    /// The numerator of the scaling.
    #[serde(with = "number")]
    pub lora_alpha: f64,
    /// The probability of dropping an input of `A` in training.
    pub lora_dropout: f64,
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
    /// Numerators that differ from `lora_alpha`, likewise.
    #[serde(with = "number_map")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Modules of which a full copy is trained and saved.
    pub modules_to_save: Option<Vec<String>>,
    /// Which biases of the base are trained.
    pub bias: BiasMode,
    /// Whether the base is stored as `[d_in, d_out]`; kept as it is, because the layers know.
    pub fan_in_fan_out: bool,
    /// Divides by `√r` in place of `r` (Kalajdzievski 2023, arXiv:2312.03732, §4 theorem 3.2).
    pub use_rslora: bool,
    /// Trains the magnitude of each output beside the direction (DoRA).
    pub use_dora: bool,
    /// Gives `B` a bias.
    pub lora_bias: bool,
    /// Rows of embeddings that are trained beside the adapter.
    pub trainable_token_indices: Option<TokenIndices>,
    /// How the factors begin.
    pub init_lora_weights: InitLoraWeights,
    /// The options of [`InitLoraWeights::Loftq`]; of no account for others.
    #[serde(with = "empty_when_absent")]
    pub loftq_config: Option<LoftqConfig>,
    /// The options of [`InitLoraWeights::Eva`]; of no account for others.
    pub eva_config: Option<EvaConfig>,
    /// Everything else in the file, kept as it is; active options that are not implemented are
    /// refused.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How the factors begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SwitchOrName", into = "SwitchOrName")]
#[non_exhaustive]
pub enum InitLoraWeights {
    /// `true`: `A` uniform as torch's linear layers, `B` zero.
    Kaiming,
    /// `false`: both random, so that the adapter changes the output from the start.
    Random,
    /// `"gaussian"`: `A` normal with deviation `1/r`, `B` zero.
    Gaussian,
    /// `"orthogonal"`: both random with `B·A = 0`; `r` must be even.
    Orthogonal,
    /// `"pissa"`: the largest singular values and vectors of the base's weight.
    Pissa,
    /// `"pissa_niter_N"`: the same by `N` subspace iterations.
    PissaNiter(usize),
    /// `"olora"`: the first rows of the QR decomposition of the base's weight.
    Olora,
    /// `"loftq"`: what quantizing the base loses, which [`inject`](crate::inject) does as well.
    Loftq,
    /// `"eva"`: `A` the directions in which a layer's inputs vary most, `B` zero; see
    /// [`EvaInit`](crate::EvaInit).
    Eva,
    /// A name that is not implemented; refused by [`LoraConfig::validate`].
    Other(String),
}

impl InitLoraWeights {
    /// Whether the initial update is taken off the base.
    pub(crate) fn takes_from_base(&self) -> bool {
        matches!(self, Self::Pissa | Self::PissaNiter(_) | Self::Olora)
    }
}

impl From<SwitchOrName> for InitLoraWeights {
    fn from(wire: SwitchOrName) -> Self {
        let name = match wire {
            SwitchOrName::Switch(Some(true)) => return Self::Kaiming,
            SwitchOrName::Switch(_) => return Self::Random,
            SwitchOrName::Name(name) => name,
        };
        match name.to_lowercase().as_str() {
            "gaussian" => Self::Gaussian,
            "orthogonal" => Self::Orthogonal,
            "pissa" => Self::Pissa,
            "olora" => Self::Olora,
            "loftq" => Self::Loftq,
            "eva" => Self::Eva,
            lower => match lower.strip_prefix("pissa_niter_").map(str::parse) {
                Some(Ok(iterations)) => Self::PissaNiter(iterations),
                _ => Self::Other(name),
            },
        }
    }
}

impl From<InitLoraWeights> for SwitchOrName {
    fn from(init: InitLoraWeights) -> Self {
        match init {
            InitLoraWeights::Kaiming => Self::ON,
            InitLoraWeights::Random => Self::OFF,
            InitLoraWeights::Gaussian => Self::name("gaussian"),
            InitLoraWeights::Orthogonal => Self::name("orthogonal"),
            InitLoraWeights::Pissa => Self::name("pissa"),
            InitLoraWeights::PissaNiter(n) => Self::Name(format!("pissa_niter_{n}")),
            InitLoraWeights::Olora => Self::name("olora"),
            InitLoraWeights::Loftq => Self::name("loftq"),
            InitLoraWeights::Eva => Self::name("eva"),
            InitLoraWeights::Other(name) => Self::Name(name),
        }
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        let mut extra: Map<String, Value> = UNSUPPORTED
            .iter()
            .map(|&(field, _)| (field.to_owned(), Value::Null))
            .collect();
        extra.insert("ensure_weight_tying".to_owned(), false.into());
        extra.insert("megatron_core".to_owned(), "megatron.core".into());
        extra.insert("qalora_group_size".to_owned(), 16.into());
        extra.insert("use_qalora".to_owned(), false.into());
        Self {
            common: CommonConfig::default(),
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            modules_to_save: None,
            bias: BiasMode::None,
            fan_in_fan_out: false,
            use_rslora: false,
            use_dora: false,
            lora_bias: false,
            trainable_token_indices: None,
            init_lora_weights: InitLoraWeights::Kaiming,
            loftq_config: None,
            eva_config: None,
            extra,
        }
    }
}

impl LoraConfig {
    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// [`Error::UnsupportedOption`] for every active option that is not implemented,
    /// [`Error::InvalidConfig`] for values out of range.
    pub fn validate(&self) -> Result<()> {
        check::idle(&self.extra, UNSUPPORTED)?;
        if let Some(tokens) = &self.trainable_token_indices {
            tokens.validate("trainable_token_indices")?;
        }
        if let InitLoraWeights::Other(name) = &self.init_lora_weights {
            return Err(Error::UnsupportedOption {
                field: "init_lora_weights",
                value: name.clone(),
                hint: "use true, false, gaussian, orthogonal, pissa, pissa_niter_N, olora, loftq or eva",
            });
        }
        if self.use_dora && self.lora_bias {
            return Err(Error::UnsupportedOption {
                field: "lora_bias",
                value: "true".to_owned(),
                hint: "DoRA has no bias on B",
            });
        }
        check::given(self.target_modules.as_ref())?;
        check::ranks(self.r, &self.rank_pattern)?;
        check::alphas("lora_alpha", self.lora_alpha, &self.alpha_pattern)?;
        check::dropout("lora_dropout", self.lora_dropout)?;
        let zero = self.lora_alpha == 0.0 || self.alpha_pattern.values().any(|&alpha| alpha == 0.0);
        let divides = self.init_lora_weights.takes_from_base()
            || self.init_lora_weights == InitLoraWeights::Loftq;
        if zero && divides {
            let reason = "must not be 0 where the base is decomposed".to_owned();
            return Err(invalid("lora_alpha", reason));
        }
        match self.init_lora_weights {
            InitLoraWeights::Loftq => self.loftq().validate()?,
            InitLoraWeights::Eva => self.eva().validate()?,
            _ => {}
        }
        let odd = std::iter::once(&self.r)
            .chain(self.rank_pattern.values())
            .find(|r| !r.is_multiple_of(2));
        match odd {
            Some(r) if self.init_lora_weights == InitLoraWeights::Orthogonal => Err(invalid(
                "r",
                format!("must be even for orthogonal initialisation, got {r}"),
            )),
            _ => Ok(()),
        }
    }

    /// The options of LoftQ, or their defaults.
    pub(crate) fn loftq(&self) -> LoftqConfig {
        self.loftq_config.clone().unwrap_or_default()
    }

    /// The options of EVA, or their defaults.
    pub(crate) fn eva(&self) -> EvaConfig {
        self.eva_config.clone().unwrap_or_default()
    }

    /// The factor before `B·A` for a rank and a numerator.
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    pub(crate) fn scaling(&self, r: usize, lora_alpha: f64) -> f64 {
        let r = r as f64;
        lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }
}

/// PEFT writes `{}` where there are no options.
mod empty_when_absent {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::{Map, Value};

    use super::LoftqConfig;

    pub(super) fn serialize<S: Serializer>(
        config: &Option<LoftqConfig>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match config {
            Some(config) => config.serialize(serializer),
            None => Map::<String, Value>::new().serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<LoftqConfig>, D::Error> {
        let fields = Option::<Map<String, Value>>::deserialize(deserializer)?;
        match fields.filter(|fields| !fields.is_empty()) {
            None => Ok(None),
            Some(fields) => serde_json::from_value(Value::Object(fields))
                .map(Some)
                .map_err(serde::de::Error::custom),
        }
    }
}

impl MethodConfig for LoraConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    usual_targets!();

    fn bias(&self) -> BiasMode {
        self.bias
    }

    fn stores_base(&self) -> bool {
        self.trainable_token_indices.is_none()
    }

    fn largest_rank(&self) -> usize {
        largest(self.r, &self.rank_pattern)
    }

    fn builder(&self, modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(LoraBuilder::new(self, modules)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PeftConfig;
    use serde_json::json;
    use std::path::Path;

    fn config() -> LoraConfig {
        LoraConfig {
            target_modules: Some(TargetModules::AllLinear),
            ..LoraConfig::default()
        }
    }

    fn message(config: &LoraConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn every_active_option_without_implementation_is_refused_by_name() {
        for &(field, _) in UNSUPPORTED {
            let mut config = config();
            config.validate().unwrap();
            for idle in [Value::Null, json!(false), json!([]), json!({})] {
                config.extra.insert(field.to_owned(), idle);
                config.validate().unwrap();
            }
            config.extra.insert(field.to_owned(), json!([1]));
            let error = config.validate().unwrap_err();
            assert!(
                matches!(error, Error::UnsupportedOption { field: named, .. } if named == field),
                "{field}"
            );
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let base = config;
        let with = |change: &dyn Fn(&mut LoraConfig)| {
            let mut config = base();
            change(&mut config);
            message(&config)
        };
        assert_eq!(with(&|c| c.r = 0), "r must be at least 1, got 0");
        assert_eq!(
            with(&|c| c.lora_alpha = f64::NAN),
            "lora_alpha must be finite, got NaN"
        );
        assert_eq!(
            with(&|c| c.lora_alpha = -1.0),
            "lora_alpha must not be negative, got -1"
        );
        assert_eq!(
            with(&|c| c.lora_dropout = 1.0),
            "lora_dropout must be in [0, 1), got 1"
        );
        assert_eq!(
            with(&|c| c.target_modules = None),
            "target_modules must be given"
        );
        let odd = with(&|c| {
            c.init_lora_weights = InitLoraWeights::Orthogonal;
            c.r = 3;
        });
        assert_eq!(odd, "r must be even for orthogonal initialisation, got 3");
        assert!(
            with(&|c| c.rank_pattern = [("x".to_owned(), 0)].into()).starts_with("rank_pattern")
        );
        assert!(with(&|c| c.alpha_pattern = [("x".to_owned(), -2.0)].into()).starts_with("alpha"));
        assert!(
            with(&|c| c.init_lora_weights = InitLoraWeights::Other("mica".into())).contains("mica")
        );
        assert!(with(&|c| (c.use_dora, c.lora_bias) = (true, true)).contains("lora_bias"));
        let loftq = |bits, iterations| {
            with(&|c| {
                c.init_lora_weights = InitLoraWeights::Loftq;
                c.loftq_config = Some(LoftqConfig {
                    loftq_bits: bits,
                    loftq_iter: iterations,
                });
            })
        };
        assert_eq!(loftq(2, 1), "loftq_bits must be 4 or 8, got 2");
        assert_eq!(loftq(4, 0), "loftq_iter must be at least 1, got 0");
        let eva = |rho, tau| {
            with(&|c| {
                c.init_lora_weights = InitLoraWeights::Eva;
                c.eva_config = Some(EvaConfig {
                    rho,
                    tau,
                    ..EvaConfig::default()
                });
            })
        };
        assert_eq!(eva(0.5, 0.9), "rho must be at least 1 and finite, got 0.5");
        assert_eq!(eva(1.0, 1.5), "tau must be in [0, 1], got 1.5");
    }

    #[test]
    fn unknown_fields_survive_reading_and_writing() {
        let file = Path::new("adapter_config.json");
        let value = json!({
            "peft_type": "LORA", "r": 2, "lora_alpha": 2.5, "future_option": {"b": 1, "a": [2]},
            "target_modules": "all-linear", "init_lora_weights": false, "bias": "lora_only",
            "loftq_config": {"loftq_bits": 8, "loftq_iter": 3},
            "eva_config": {
                "rho": 1.5, "tau": 0.9, "use_label_mask": false, "label_mask_value": -1,
                "whiten": true, "adjust_scaling_factors": false,
            },
        });
        let config = PeftConfig::from_json(value.clone(), file).unwrap();
        let written = config.to_json();
        for (key, expected) in value.as_object().unwrap() {
            assert_eq!(&written[key], expected, "{key}");
        }
        assert_eq!(PeftConfig::from_json(written, file).unwrap(), config);
    }

    #[test]
    fn wrong_types_and_methods_are_typed_errors() {
        let file = Path::new("adapter_config.json");
        let read = |value| PeftConfig::from_json(value, file).unwrap_err();
        assert!(matches!(
            read(json!({"peft_type": "LORA", "r": -1})),
            Error::InvalidJson { .. }
        ));
        assert!(matches!(read(json!([1])), Error::InvalidJson { .. }));
        let error = read(json!({"peft_type": "NEW"})).to_string();
        assert!(
            error.starts_with("peft_type `NEW` is not supported"),
            "{error}"
        );
    }
}
