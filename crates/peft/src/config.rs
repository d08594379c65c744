//! `adapter_config.json`: the configuration of every method under one roof.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::lora::LoraConfig;

/// The field that names the method.
const PEFT_TYPE: &str = "peft_type";

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
    /// LoRA, rsLoRA and DoRA.
    Lora(LoraConfig),
}

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

impl From<LoraConfig> for PeftConfig {
    fn from(config: LoraConfig) -> Self {
        Self::Lora(config)
    }
}

impl PeftConfig {
    /// Every `peft_type` that is implemented.
    pub const PEFT_TYPES: &[&str] = &["LORA"];

    /// The method's name on disk.
    pub fn peft_type(&self) -> &'static str {
        match self {
            Self::Lora(_) => "LORA",
        }
    }

    /// The fields that every method has.
    pub fn common(&self) -> &CommonConfig {
        match self {
            Self::Lora(config) => &config.common,
        }
    }

    /// The same, to be changed.
    pub fn common_mut(&mut self) -> &mut CommonConfig {
        match self {
            Self::Lora(config) => &mut config.common,
        }
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
        match peft_type {
            "LORA" => Ok(Self::Lora(read(fields).map_err(invalid)?)),
            other => Err(Error::UnknownPeftType {
                got: other.to_owned(),
                known: Self::PEFT_TYPES.iter().map(|&t| t.to_owned()).collect(),
            }),
        }
    }

    /// The content of `adapter_config.json`, keys sorted as PEFT sorts them.
    pub fn to_json(&self) -> Value {
        let fields = match self {
            Self::Lora(config) => serde_json::to_value(config),
        };
        // A configuration is plain data, which always has a JSON form.
        let Ok(Value::Object(mut fields)) = fields else {
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
        match self {
            Self::Lora(config) => config.validate(),
        }
    }
}

fn read<T: DeserializeOwned>(fields: Map<String, Value>) -> serde_json::Result<T> {
    serde_json::from_value(Value::Object(fields))
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
