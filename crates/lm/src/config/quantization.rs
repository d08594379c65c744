//! `quantization_config` of `config.json`, as bitsandbytes and transformers have it.

use flametune_quant::{QuantConfig, QuantKind};
use serde_json::{Map, Value, json};

use super::ConfigFile;
use crate::error::{Error, Result};

const FIELD: &str = "quantization_config";

/// What a configuration says of the stored weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) kind: QuantKind,
    double_quant: bool,
}

/// Reads how the weights of a checkpoint are quantized; `None` when they are not.
///
/// # Source
/// - reference: transformers `utils/quantization_config.py::BitsAndBytesConfig`
pub(crate) fn stored_kind(file: &ConfigFile) -> Result<Option<Stored>> {
    let Some(value) = file.get(FIELD) else {
        return Ok(None);
    };
    let Some(config) = file.nested(FIELD) else {
        return Err(file.invalid(FIELD, format!("must be an object, got {value}")));
    };
    let (four, eight) = (
        config.bool_or("load_in_4bit", false)?,
        config.bool_or("load_in_8bit", false)?,
    );
    match config.opt_str("quant_method")? {
        Some("bitsandbytes") => {}
        None if four || eight => {}
        other => {
            return Err(ConfigFile::unsupported(
                "quantization_config.quant_method",
                other.unwrap_or("null"),
                "use bitsandbytes, or a checkpoint that is not quantized",
            ));
        }
    }
    check_skipped(&config)?;
    let double_quant = config.bool_or("bnb_4bit_use_double_quant", false)?;
    let kind = match (four, eight) {
        (true, false) => four_bit_kind(&config)?,
        (false, true) => QuantKind::Int8Vectorwise,
        (true, true) => return Err(config.invalid("load_in_8bit", "stands beside load_in_4bit")),
        (false, false) => {
            return Err(config.invalid("load_in_4bit", "must be true, or load_in_8bit"));
        }
    };
    Ok(Some(Stored { kind, double_quant }))
}

fn four_bit_kind(config: &ConfigFile) -> Result<QuantKind> {
    match config.opt_str("bnb_4bit_quant_type")?.unwrap_or("fp4") {
        "nf4" => Ok(QuantKind::Nf4),
        "fp4" => Ok(QuantKind::Fp4),
        other => Err(ConfigFile::unsupported(
            "quantization_config.bnb_4bit_quant_type",
            other,
            "use nf4 or fp4",
        )),
    }
}

/// Which layers are dense is seen from the tensors; the list must only be one of names.
fn check_skipped(config: &ConfigFile) -> Result<()> {
    let field = "llm_int8_skip_modules";
    let list = config.opt_array(field)?;
    match list.and_then(|list| list.iter().find(|name| !name.is_string())) {
        Some(other) => Err(config.invalid(field, format!("must hold strings, got {other}"))),
        None => Ok(()),
    }
}

/// The configuration of a model whose layers are quantized as `quantized` says, or not at all.
///
/// `dense` are the linear layers that are not quantized.
/// What `file` says already stays where it fits.
pub(crate) fn with_quantization(
    file: &ConfigFile,
    quantized: Option<QuantConfig>,
    dense: &[String],
) -> Result<ConfigFile> {
    let mut map = file.raw().clone();
    let Some(config) = quantized else {
        map.shift_remove(FIELD);
        return ConfigFile::from_value(Value::Object(map), file.path());
    };
    let wanted = Stored {
        kind: config.kind,
        double_quant: config.double_quant,
    };
    if stored_kind(file).ok().flatten() != Some(wanted) {
        map.insert(FIELD.to_owned(), Value::Object(written(config, dense)));
    }
    ConfigFile::from_value(Value::Object(map), file.path())
}

/// The fields that transformers writes.
fn written(config: QuantConfig, dense: &[String]) -> Map<String, Value> {
    let eight = config.kind == QuantKind::Int8Vectorwise;
    let mut map = Map::new();
    let mut put = |field: &str, value: Value| map.insert(field.to_owned(), value);
    put("quant_method", "bitsandbytes".into());
    put("load_in_4bit", (!eight).into());
    put("load_in_8bit", eight.into());
    if !eight {
        put("bnb_4bit_quant_type", config.kind.as_str().into());
        put("bnb_4bit_use_double_quant", config.double_quant.into());
        put("bnb_4bit_compute_dtype", config.dtype.torch_name().into());
        put("bnb_4bit_quant_storage", "uint8".into());
    }
    put("llm_int8_threshold", 6.0.into());
    put("llm_int8_has_fp16_weight", false.into());
    put("llm_int8_enable_fp32_cpu_offload", false.into());
    put("llm_int8_skip_modules", json!(dense));
    map
}

/// Says that a weight is of another kind than the configuration has it.
pub(crate) fn contradicts(
    file: &ConfigFile,
    stored: Stored,
    weight: &str,
    got: QuantKind,
) -> Error {
    let expected = stored.kind;
    let reason = format!("says {expected}, but weight `{weight}` is stored as {got}");
    file.invalid(FIELD, reason)
}

#[cfg(test)]
mod tests {
    use flametune_quant::WeightDtype;

    use super::*;

    fn file(quantization: &Value) -> ConfigFile {
        let value = json!({"model_type": "llama", FIELD: quantization});
        ConfigFile::from_value(value, "m/config.json").unwrap()
    }

    #[test]
    fn kinds_are_read_as_transformers_writes_them() {
        let kind = |value| {
            stored_kind(&file(&value))
                .unwrap()
                .map(|stored| stored.kind)
        };
        let nf4 = json!({"quant_method": "bitsandbytes", "load_in_4bit": true,
            "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": ["lm_head"]});
        assert_eq!(kind(nf4), Some(QuantKind::Nf4));
        assert_eq!(kind(json!({"load_in_4bit": true})), Some(QuantKind::Fp4));
        let eight = json!({"load_in_8bit": true, "quant_method": "bitsandbytes"});
        assert_eq!(kind(eight), Some(QuantKind::Int8Vectorwise));
        assert_eq!(kind(Value::Null), None);
    }

    #[test]
    fn what_is_not_supported_names_the_field() {
        for (value, expected) in [
            (
                json!("nf4"),
                "m/config.json: quantization_config must be an object, got \"nf4\"",
            ),
            (
                json!({"quant_method": "gptq", "bits": 4}),
                "quantization_config.quant_method = gptq is not supported",
            ),
            (
                json!({"load_in_4bit": true, "bnb_4bit_quant_type": "af4"}),
                "quantization_config.bnb_4bit_quant_type = af4 is not supported: use nf4 or fp4",
            ),
            (
                json!({"load_in_4bit": true, "load_in_8bit": true}),
                "m/config.json: load_in_8bit stands beside load_in_4bit",
            ),
            (
                json!({"quant_method": "bitsandbytes"}),
                "m/config.json: load_in_4bit must be true, or load_in_8bit",
            ),
            (
                json!({"load_in_4bit": "yes"}),
                "m/config.json: load_in_4bit must be true or false, got \"yes\"",
            ),
            (
                json!({"load_in_4bit": true, "llm_int8_skip_modules": [1]}),
                "m/config.json: llm_int8_skip_modules must hold strings, got 1",
            ),
        ] {
            let message = stored_kind(&file(&value)).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn the_written_configuration_reads_back_and_what_fits_stays() {
        let config = QuantConfig::default();
        let dense = ["lm_head".to_owned()];
        let written = with_quantization(&file(&Value::Null), Some(config), &dense).unwrap();
        let expected = json!({
            "quant_method": "bitsandbytes",
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": true,
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_threshold": 6.0,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_skip_modules": ["lm_head"],
        });
        assert_eq!(written.raw()[FIELD], expected);
        let again = with_quantization(&written, Some(config), &[]).unwrap();
        assert_eq!(again, written);
        let eight = QuantConfig {
            kind: QuantKind::Int8Vectorwise,
            block_size: 0,
            double_quant: false,
            dtype: WeightDtype::F16,
        };
        let other = with_quantization(&written, Some(eight), &dense).unwrap();
        let kind = stored_kind(&other).unwrap().map(|stored| stored.kind);
        assert_eq!(kind, Some(QuantKind::Int8Vectorwise));
        let dense = with_quantization(&other, None, &[]).unwrap();
        assert!(!dense.raw().contains_key(FIELD));
    }
}
