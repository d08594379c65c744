//! The rotary position embedding of a model, as its configuration describes it.

use serde_json::{Map, Value};

use super::fields::ConfigFile;
use crate::error::Result;

/// How the rotation frequencies are stretched beyond the length a model was trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as trained.
    Default,
    /// Positions divided by `factor`.
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// The base grows with the sequence once it passes `original_max_position_embeddings`.
    Dynamic {
        /// The stretch.
        factor: f64,
        /// The length up to which nothing changes.
        original_max_position_embeddings: usize,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The stretch of the low frequencies.
        factor: f64,
        /// Wavelengths longer than `original / low_freq_factor` are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The length the model was trained on.
        original_max_position_embeddings: usize,
    },
    /// YaRN: interpolation and extrapolation blended by the number of rotations in the window.
    Yarn {
        /// The stretch.
        factor: f64,
        /// Rotations above which a dimension is extrapolated.
        beta_fast: f64,
        /// Rotations below which a dimension is interpolated.
        beta_slow: f64,
        /// Whether the borders of the ramp are rounded to whole dimensions.
        truncate: bool,
        /// The length the model was trained on.
        original_max_position_embeddings: usize,
    },
    /// LongRoPE: one searched factor a frequency, a set for short and a set for long sequences.
    LongRope {
        /// Factors up to `original_max_position_embeddings`.
        short_factor: Vec<f64>,
        /// Factors beyond it.
        long_factor: Vec<f64>,
        /// The length the model was trained on.
        original_max_position_embeddings: usize,
    },
}

/// The rotary position embedding of a model or of one kind of its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// The base wavelength θ.
    pub rope_theta: f64,
    /// How many channels of a head are rotated, even.
    pub rot_dim: usize,
    /// The factor on cosine and sine: YaRN's and LongRoPE's attention factor, else one.
    pub attention_factor: f64,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Reads the rope parameters of `file`, in the form of transformers 5 (`rope_parameters`, by
    /// `layer_type` where layers differ) or of transformers 4 (`rope_theta`, `rope_scaling`).
    ///
    /// # Errors
    /// When a field is missing or out of range, or the rope type is unknown.
    pub(crate) fn read(
        file: &ConfigFile,
        layer_type: Option<&str>,
        head_dim: usize,
        default_theta: f64,
        default_partial: f64,
    ) -> Result<Self> {
        let v5 = file.nested("rope_parameters").map(|all| {
            layer_type
                .and_then(|layer_type| all.nested(layer_type))
                .unwrap_or(all)
        });
        let v4 = file.nested("rope_scaling");
        let scaling_file = match (v5, v4) {
            (Some(parameters), _) | (None, Some(parameters)) => parameters,
            (None, None) => ConfigFile::from_value(Value::Object(Map::new()), file.path())?,
        };

        let theta = match scaling_file.opt_f64("rope_theta")? {
            Some(theta) => theta,
            None => file.f64_or("rope_theta", default_theta)?,
        };
        if theta <= 1.0 {
            return Err(file.invalid("rope_theta", format!("must be above 1, got {theta}")));
        }
        let partial = match scaling_file.opt_f64("partial_rotary_factor")? {
            Some(partial) => partial,
            None => file.f64_or("partial_rotary_factor", default_partial)?,
        };
        let rot_dim = rotated_channels(head_dim, partial);
        if rot_dim == 0 || !rot_dim.is_multiple_of(2) || rot_dim > head_dim {
            return Err(file.invalid(
                "partial_rotary_factor",
                format!("must rotate an even part of {head_dim} channels, got {partial}"),
            ));
        }
        let (scaling, attention_factor) = scaling(file, &scaling_file, rot_dim)?;
        Ok(Self {
            rope_theta: theta,
            rot_dim,
            attention_factor,
            scaling,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "head_dim is small; a negative or huge product saturates and is refused by the caller"
)]
fn rotated_channels(head_dim: usize, partial: f64) -> usize {
    (head_dim as f64 * partial) as usize
}

/// The scaling and the attention factor that `parameters` describe.
fn scaling(
    file: &ConfigFile,
    parameters: &ConfigFile,
    rot_dim: usize,
) -> Result<(RopeScaling, f64)> {
    let rope_type = match parameters.opt_str("rope_type")? {
        Some(rope_type) => rope_type,
        None => parameters.opt_str("type")?.unwrap_or("default"),
    };
    let max_positions = || file.usize("max_position_embeddings");
    let original = || match parameters.opt_usize("original_max_position_embeddings")? {
        Some(_) => parameters.usize("original_max_position_embeddings"),
        None => match file.opt_usize("original_max_position_embeddings")? {
            Some(_) => file.usize("original_max_position_embeddings"),
            None => max_positions(),
        },
    };
    let factor = || -> Result<f64> {
        let factor = match parameters.opt_f64("factor")? {
            Some(factor) => factor,
            None => parameters.f64("factor")?,
        };
        check_factor(parameters, "factor", factor)
    };
    match rope_type {
        "default" => Ok((RopeScaling::Default, 1.0)),
        "linear" => Ok((RopeScaling::Linear { factor: factor()? }, 1.0)),
        "dynamic" => Ok((
            RopeScaling::Dynamic {
                factor: factor()?,
                original_max_position_embeddings: max_positions()?,
            },
            1.0,
        )),
        "llama3" => {
            let low_freq_factor = parameters.f64("low_freq_factor")?;
            let high_freq_factor = parameters.f64("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor || low_freq_factor <= 0.0 {
                return Err(parameters.invalid(
                    "high_freq_factor",
                    format!("must be above low_freq_factor {low_freq_factor} > 0, got {high_freq_factor}"),
                ));
            }
            Ok((
                RopeScaling::Llama3 {
                    factor: factor()?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings: original()?,
                },
                1.0,
            ))
        }
        "yarn" => yarn(parameters, original()?, max_positions()?),
        "longrope" | "su" => longrope(parameters, original()?, max_positions()?, rot_dim),
        other => Err(ConfigFile::unsupported(
            "rope_type",
            other,
            "use default, linear, dynamic, llama3, yarn or longrope",
        )),
    }
}

fn check_factor(parameters: &ConfigFile, field: &str, factor: f64) -> Result<f64> {
    if factor <= 0.0 {
        return Err(parameters.invalid(field, format!("must be positive, got {factor}")));
    }
    Ok(factor)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "context lengths are far below 2^52"
)]
fn yarn(
    parameters: &ConfigFile,
    original: usize,
    max_positions: usize,
) -> Result<(RopeScaling, f64)> {
    let factor = parameters.f64_or("factor", max_positions as f64 / original as f64)?;
    let factor = check_factor(parameters, "factor", factor)?;
    // The magnitude correction of the attention logits: 0.1·ln(s) + 1 (arXiv:2309.00071, §3.4).
    let mscale = |weight: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * weight * factor.ln() + 1.0
        }
    };
    let weights = (
        parameters.f64_or("mscale", 0.0)?,
        parameters.f64_or("mscale_all_dim", 0.0)?,
    );
    let attention_factor = match (parameters.opt_f64("attention_factor")?, weights) {
        (Some(attention_factor), _) => attention_factor,
        (None, (scale, all_dim)) if scale != 0.0 && all_dim != 0.0 => {
            mscale(scale) / mscale(all_dim)
        }
        (None, _) => mscale(1.0),
    };
    let nonzero = |value: f64, default: f64| if value == 0.0 { default } else { value };
    Ok((
        RopeScaling::Yarn {
            factor,
            beta_fast: nonzero(parameters.f64_or("beta_fast", 32.0)?, 32.0),
            beta_slow: nonzero(parameters.f64_or("beta_slow", 1.0)?, 1.0),
            truncate: parameters.bool_or("truncate", true)?,
            original_max_position_embeddings: original,
        },
        attention_factor,
    ))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "context lengths are far below 2^52"
)]
fn longrope(
    parameters: &ConfigFile,
    original: usize,
    max_positions: usize,
    rot_dim: usize,
) -> Result<(RopeScaling, f64)> {
    let factors = |field: &str| -> Result<Vec<f64>> {
        let list = parameters.f64_list(field)?;
        if list.len() != rot_dim / 2 || list.iter().any(|&factor| factor <= 0.0) {
            return Err(parameters.invalid(
                field,
                format!(
                    "must hold {} positive factors, got {} numbers",
                    rot_dim / 2,
                    list.len()
                ),
            ));
        }
        Ok(list)
    };
    let factor = parameters.f64_or("factor", max_positions as f64 / original as f64)?;
    let attention_factor = match parameters.opt_f64("attention_factor")? {
        Some(attention_factor) => attention_factor,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
    };
    Ok((
        RopeScaling::LongRope {
            short_factor: factors("short_factor")?,
            long_factor: factors("long_factor")?,
            original_max_position_embeddings: original,
        },
        attention_factor,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<RopeConfig> {
        let file = ConfigFile::from_value(value, "config.json").unwrap();
        RopeConfig::read(&file, None, 16, 10_000.0, 1.0)
    }

    #[test]
    fn both_generations_of_the_file_mean_the_same() {
        let scaling =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = json!(500.0);
        let v4 =
            json!({"max_position_embeddings": 64, "rope_theta": 500.0, "rope_scaling": scaling});
        let v5 = json!({"max_position_embeddings": 64, "rope_parameters": parameters});
        assert_eq!(read(v4).unwrap(), read(v5).unwrap());
    }

    #[test]
    fn yarn_derives_its_attention_factor() {
        let rope = read(json!({
            "max_position_embeddings": 128,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
        }))
        .unwrap();
        assert!((rope.attention_factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn wrong_values_are_named() {
        let error = read(json!({"rope_scaling": {"type": "spiral"}}))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("rope_type = spiral is not supported"),
            "{error}"
        );
        let error = read(json!({"rope_theta": -1})).unwrap_err().to_string();
        assert_eq!(error, "config.json: rope_theta must be above 1, got -1");
        let error = read(json!({"partial_rotary_factor": 0.2}))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("must rotate an even part of 16 channels, got 0.2"),
            "{error}"
        );
        let error = read(json!({"rope_scaling": {"type": "linear"}}))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "config.json: factor is missing");
        let error = read(json!({"max_position_embeddings": 64,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}))
        .unwrap_err()
        .to_string();
        assert_eq!(
            error,
            "config.json: short_factor must hold 8 positive factors, got 1 numbers"
        );
    }
}
