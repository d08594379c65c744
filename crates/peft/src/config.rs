//! `adapter_config.json`: the configuration of every method under one roof.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adalora::AdaLoraConfig;
use crate::bottleneck::BottleneckConfig;
use crate::build::MethodConfig;
use crate::error::{Error, Result};
use crate::hira::HiraConfig;
use crate::ia3::Ia3Config;
use crate::ln_tuning::LnTuningConfig;
use crate::loha::LoHaConfig;
use crate::lokr::LoKrConfig;
use crate::lora::LoraConfig;
use crate::miss::MissConfig;
use crate::prompt::{PrefixTuningConfig, PromptEncoderConfig, PromptShape, PromptTuningConfig};
use crate::trainable_tokens::TrainableTokensConfig;
use crate::vera::VeraConfig;

/// The field that names the method.
const PEFT_TYPE: &str = "peft_type";

/// Heads that PEFT adds to `modules_to_save` of a classifier without looking which one it has.
const CLASSIFIER_HEADS: &[&str] = &["classifier", "score"];

/// The fields that every method's configuration has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CommonConfig {
    /// What PEFT needs to build the base without being told its class; kept as it is.
    pub auto_mapping: Option<Value>,
    /// The base as its author called it.
    pub base_model_name_or_path: Option<String>,
    /// Whether the adapter is loaded frozen.
    pub inference_mode: bool,
    /// The version of PEFT that wrote the file.
    pub peft_version: Option<String>,
    /// The revision of the base.
    pub revision: Option<String>,
    /// What the model is for, such as `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl CommonConfig {
    /// Heads that PEFT lists in `modules_to_save` without looking whether they are there.
    pub(crate) fn optional_heads(&self) -> &'static [&'static str] {
        match self.task_type.as_deref() {
            Some("SEQ_CLS" | "TOKEN_CLS") => CLASSIFIER_HEADS,
            _ => &[],
        }
    }
}

/// Lists the methods: a variant, its configuration and its name on disk.
macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident($config:ty) = $peft_type:literal,)*) => {
        /// The configuration of an adapter, tagged by `peft_type` on disk.
        ///
        /// # Examples
        /// ```
        /// use flametune_peft::{LoraConfig, PeftConfig, TargetModules};
        ///
        /// let config: PeftConfig = LoraConfig {
        ///     r: 16,
        ///     target_modules: Some(TargetModules::list(["q_proj", "v_proj"])),
        ///     ..LoraConfig::default()
        /// }
        /// .into();
        /// let text = config.to_json().to_string();
        /// assert!(text.contains(r#""peft_type":"LORA""#));
        /// ```
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum PeftConfig {
            $($(#[$doc])* $variant($config),)*
        }

        $(
            impl From<$config> for PeftConfig {
                fn from(config: $config) -> Self {
                    Self::$variant(config)
                }
            }
        )*

        impl PeftConfig {
            /// Every `peft_type` that is implemented.
            pub const PEFT_TYPES: &[&str] = &[$($peft_type),*];

            /// The method's name on disk.
            pub fn peft_type(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $peft_type,)*
                }
            }

            /// What the method says of itself.
            pub(crate) fn method(&self) -> &dyn MethodConfig {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }

            fn method_mut(&mut self) -> &mut dyn MethodConfig {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }

            /// Reads all fields but the type; nothing for a type that is not implemented.
            fn read(peft_type: &str, fields: Map<String, Value>) -> Option<serde_json::Result<Self>> {
                match peft_type {
                    $($peft_type => Some(read(fields).map(Self::$variant)),)*
                    _ => None,
                }
            }

            fn fields(&self) -> serde_json::Result<Value> {
                match self {
                    $(Self::$variant(config) => serde_json::to_value(config),)*
                }
            }
        }
    };
}

methods! {
    /// `AdaLoRA`.
    AdaLora(AdaLoraConfig) = "ADALORA",
    /// Bottleneck adapters, in a form of this crate's own.
    Bottleneck(BottleneckConfig) = "BOTTLENECK",
    /// `HiRA`.
    Hira(HiraConfig) = "HIRA",
    /// (IA)³.
    Ia3(Ia3Config) = "IA3",
    /// Tuning of normalisations.
    LnTuning(LnTuningConfig) = "LN_TUNING",
    /// `LoHa`.
    LoHa(LoHaConfig) = "LOHA",
    /// `LoKr`.
    LoKr(LoKrConfig) = "LOKR",
    /// LoRA, rsLoRA and DoRA.
    Lora(LoraConfig) = "LORA",
    /// `MiSS`, also with blocks that depend on the weight (bat) and with shared columns (mini).
    Miss(MissConfig) = "MISS",
    /// Prefix tuning.
    PrefixTuning(PrefixTuningConfig) = "PREFIX_TUNING",
    /// P-tuning.
    PromptEncoder(PromptEncoderConfig) = "P_TUNING",
    /// Prompt tuning.
    PromptTuning(PromptTuningConfig) = "PROMPT_TUNING",
    /// Single rows of an embedding.
    TrainableTokens(TrainableTokensConfig) = "TRAINABLE_TOKENS",
    /// `VeRA`.
    Vera(VeraConfig) = "VERA",
}

impl PeftConfig {
    /// The fields that every method has.
    pub fn common(&self) -> &CommonConfig {
        self.method().common()
    }

    /// The same, to be changed.
    pub fn common_mut(&mut self) -> &mut CommonConfig {
        self.method_mut().common_mut()
    }

    /// Reads the content of an `adapter_config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::InvalidJson`] for fields of the wrong type, [`Error::UnknownPeftType`].
    pub fn from_json(value: Value, file: &Path) -> Result<Self> {
        let invalid = |source| Error::InvalidJson {
            file: file.to_owned(),
            source,
        };
        let mut fields: Map<String, Value> = serde_json::from_value(value).map_err(invalid)?;
        let peft_type = fields.remove(PEFT_TYPE);
        let peft_type = peft_type.as_ref().and_then(Value::as_str).unwrap_or("");
        match Self::read(peft_type, fields) {
            Some(config) => config.map_err(invalid),
            None => Err(Error::UnknownPeftType {
                got: peft_type.to_owned(),
                known: Self::PEFT_TYPES.iter().map(|&t| t.to_owned()).collect(),
            }),
        }
    }

    /// The content of `adapter_config.json`, keys sorted as PEFT sorts them.
    pub fn to_json(&self) -> Value {
        // A configuration is plain data, which always has a JSON form.
        let Ok(Value::Object(mut fields)) = self.fields() else {
            return Value::Null;
        };
        fields.insert(PEFT_TYPE.to_owned(), self.peft_type().into());
        fields.sort_keys();
        for value in fields.values_mut() {
            value.sort_all_objects();
        }
        Value::Object(fields)
    }

    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// [`Error::UnsupportedOption`] for every active option that is not implemented,
    /// [`Error::InvalidConfig`] for values out of range.
    pub fn validate(&self) -> Result<()> {
        self.method().validate()
    }

    /// The number of virtual tokens, 0 for methods without.
    pub fn num_virtual_tokens(&self) -> usize {
        let tokens = match self {
            Self::PromptTuning(config) => &config.tokens,
            Self::PrefixTuning(config) => &config.tokens,
            Self::PromptEncoder(config) => &config.tokens,
            _ => return 0,
        };
        tokens.num_virtual_tokens.unwrap_or(0)
    }

    /// The larger of width and depth of the encoder of virtual tokens, as far as they are given.
    pub(crate) fn encoder_size(&self) -> usize {
        match self {
            Self::PrefixTuning(config) => config.encoder_hidden_size.unwrap_or(0),
            Self::PromptEncoder(config) => {
                let width = config.encoder_hidden_size.unwrap_or(0);
                width.max(config.encoder_num_layers)
            }
            _ => 0,
        }
    }

    /// Whether the adapter has virtual tokens.
    pub fn has_virtual_tokens(&self) -> bool {
        matches!(
            self,
            Self::PromptTuning(_) | Self::PrefixTuning(_) | Self::PromptEncoder(_)
        )
    }

    /// Whether the method has places of its own, and names no modules.
    pub(crate) fn has_own_places(&self) -> bool {
        self.has_virtual_tokens() || matches!(self, Self::Bottleneck(_))
    }

    /// Takes what is absent from the model that the virtual tokens join, and compares what is
    /// there with it.
    pub(crate) fn resolve_shape(&mut self, shape: &PromptShape) -> Result<()> {
        match self {
            Self::PromptTuning(config) => config.resolve(shape),
            Self::PrefixTuning(config) => config.resolve(shape),
            Self::PromptEncoder(config) => config.resolve(shape),
            _ => Ok(()),
        }
    }
}

fn read<T: DeserializeOwned>(fields: Map<String, Value>) -> serde_json::Result<T> {
    serde_json::from_value(Value::Object(fields))
}

/// Whether a value asks for something, as Python counts it.
pub(crate) fn is_active(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(true) => true,
    }
}

/// How PEFT writes an initialisation: a switch, where `null` is off, or a name.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum SwitchOrName {
    /// On or off.
    Switch(Option<bool>),
    /// A name.
    Name(String),
}

impl SwitchOrName {
    pub(crate) const ON: Self = Self::Switch(Some(true));
    pub(crate) const OFF: Self = Self::Switch(Some(false));

    pub(crate) fn name(name: impl Into<String>) -> Self {
        Self::Name(name.into())
    }
}

/// Numbers that Python writes without a fraction when they have none.
pub(crate) mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
        if value.fract() == 0.0 && value.abs() < 1e15 {
            serializer.serialize_i64(*value as i64)
        } else {
            serializer.serialize_f64(*value)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        f64::deserialize(deserializer)
    }
}

/// A mapping to such numbers.
pub(crate) mod number_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Number(#[serde(with = "super::number")] f64);

    pub(crate) fn serialize<S: Serializer>(
        map: &BTreeMap<String, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(key, &value)| (key, Number(value))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f64>, D::Error> {
        let map = BTreeMap::<String, Number>::deserialize(deserializer)?;
        Ok(map
            .into_iter()
            .map(|(key, Number(value))| (key, value))
            .collect())
    }
}
