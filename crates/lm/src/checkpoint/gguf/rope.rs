//! The rotary position embedding of a GGUF file as `rope_parameters`.

use std::f64::consts::PI;

use serde_json::{Value, json};

use super::architecture::Architecture;
use super::config::Source;
use super::names::{ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, ROPE_FREQS};
use crate::error::{Error, Result};

/// The parameters of the one rotation of a model, or of Gemma 3's two.
pub(super) fn parameters(source: &Source<'_>, head_dim: usize) -> Result<Value> {
    let theta = source.decimal("rope.freq_base")?;
    let mut global = scaling(source, theta.unwrap_or(10_000.0), head_dim)?;
    if source.architecture != Architecture::Gemma3 {
        global["rope_theta"] = json!(theta.unwrap_or(10_000.0));
        if let Some(partial) = partial_rotary_factor(source, head_dim)? {
            global["partial_rotary_factor"] = json!(partial);
        }
        return Ok(global);
    }
    global["rope_theta"] = json!(theta.unwrap_or(1_000_000.0));
    let local = source.decimal("rope.freq_base_swa")?.unwrap_or(10_000.0);
    Ok(json!({
        "full_attention": global,
        "sliding_attention": { "rope_type": "default", "rope_theta": local },
    }))
}

/// The part of a head that is rotated, when it is not all of it.
#[allow(clippy::cast_precision_loss, reason = "widths of heads are small")]
fn partial_rotary_factor(source: &Source<'_>, head_dim: usize) -> Result<Option<f64>> {
    const KEY: &str = "rope.dimension_count";
    match source.get::<usize>(KEY)? {
        None => Ok(None),
        Some(rotated) if rotated == head_dim => Ok(None),
        Some(rotated) if rotated < head_dim => Ok(Some(rotated as f64 / head_dim as f64)),
        Some(rotated) => Err(source.invalid(
            KEY,
            format!("at most the width of a head, {head_dim}"),
            rotated,
        )),
    }
}

/// Everything but the base.
fn scaling(source: &Source<'_>, theta: f64, head_dim: usize) -> Result<Value> {
    let kind = source.get::<&str>("rope.scaling.type")?.unwrap_or("none");
    let factors = source.file.tensor(ROPE_FREQS).is_some();
    match kind {
        "linear" | "yarn" if factors => Err(unsupported(source, kind, "rope_freqs beside it")),
        "linear" => linear(positive(source, "rope.scaling.factor")?),
        "yarn" => yarn(source),
        "none" | "longrope" => match source.file.tensor(ROPE_FACTORS_LONG) {
            Some(_) => longrope(source),
            None if factors => frequency_factors(source, theta, head_dim),
            // The key of the first GGUF files.
            None => match source.get::<f64>("rope.scale_linear")? {
                Some(_) => linear(positive(source, "rope.scale_linear")?),
                None => Ok(json!({ "rope_type": "default" })),
            },
        },
        other => Err(unsupported(
            source,
            other,
            "use none, linear, yarn or longrope",
        )),
    }
}

fn unsupported(source: &Source<'_>, value: &str, hint: &str) -> Error {
    Error::UnsupportedOption {
        field: source.architecture.key("rope.scaling.type"),
        value: value.to_owned(),
        hint: hint.to_owned(),
    }
}

fn positive(source: &Source<'_>, key: &str) -> Result<f64> {
    let factor = source.decimal(key)?;
    match factor {
        Some(factor) if factor > 0.0 && factor.is_finite() => Ok(factor),
        Some(factor) => Err(source.invalid(key, "positive and finite", factor)),
        None => source.require::<f64>(key),
    }
}

fn linear(factor: f64) -> Result<Value> {
    if factor == 1.0 {
        return Ok(json!({ "rope_type": "default" }));
    }
    Ok(json!({ "rope_type": "linear", "factor": factor }))
}

fn yarn(source: &Source<'_>) -> Result<Value> {
    let factor = positive(source, "rope.scaling.factor")?;
    let original = source.require::<usize>("rope.scaling.original_context_length")?;
    let mut parameters = json!({
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
    });
    for (field, key) in [
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ] {
        if let Some(value) = source.decimal(key)? {
            parameters[field] = json!(value);
        }
    }
    // llama.cpp multiplies YaRN's own factor by this one.
    if let Some(multiplier) = source.decimal("rope.scaling.attn_factor")? {
        let own = if factor > 1.0 {
            0.1 * factor.ln() + 1.0
        } else {
            1.0
        };
        parameters["attention_factor"] = json!(multiplier * own);
    }
    Ok(parameters)
}

fn longrope(source: &Source<'_>) -> Result<Value> {
    let original = source.require::<usize>("rope.scaling.original_context_length")?;
    let mut parameters = json!({
        "rope_type": "longrope",
        "long_factor": factors(source, ROPE_FACTORS_LONG)?,
        "short_factor": factors(source, ROPE_FACTORS_SHORT)?,
        "original_max_position_embeddings": original,
    });
    if let Some(attention_factor) = source.decimal("rope.scaling.attn_factor")? {
        parameters["attention_factor"] = json!(attention_factor);
    }
    Ok(parameters)
}

/// The divisors of the frequencies, one for each pair of channels.
fn factors(source: &Source<'_>, name: &str) -> Result<Vec<f64>> {
    let values = source.file.dequantize(name)?;
    if let Some(value) = values
        .iter()
        .find(|value| !(value.is_finite() && **value > 0.0))
    {
        return Err(Error::InvalidConfig {
            file: source.file.path().to_owned(),
            field: name.to_owned(),
            reason: format!("must hold positive factors, got {value}"),
        });
    }
    // Decimals as they were written from, see `Source::decimal`.
    Ok(values
        .iter()
        .map(|value| value.to_string().parse().unwrap_or(f64::from(*value)))
        .collect())
}

/// What `rope_freqs` says: Llama 3's scaling when the factors are those of its formula, else the
/// factors themselves.
fn frequency_factors(source: &Source<'_>, theta: f64, head_dim: usize) -> Result<Value> {
    let stored = factors(source, ROPE_FREQS)?;
    let context = source.require::<usize>("context_length")?;
    let largest = stored.iter().copied().fold(1.0, f64::max);
    if largest == 1.0 && stored.iter().all(|&factor| factor == 1.0) {
        return Ok(json!({ "rope_type": "default" }));
    }
    let formula = Llama3 { factor: largest };
    let same = |(index, &stored): (usize, &f64)| {
        // The converter computes in f32.
        (formula.divisor(theta, head_dim, index) - stored).abs() <= 1e-4 * stored
    };
    if stored.len() == head_dim / 2 && stored.iter().enumerate().all(same) {
        return Ok(formula.parameters());
    }
    Ok(json!({
        "rope_type": "longrope",
        "long_factor": stored,
        "short_factor": stored,
        "original_max_position_embeddings": context,
        "attention_factor": 1.0,
    }))
}

/// The scaling of Llama 3.1 and later, with the constants of every published model.
struct Llama3 {
    factor: f64,
}

impl Llama3 {
    const LOW_FREQ_FACTOR: f64 = 1.0;
    const HIGH_FREQ_FACTOR: f64 = 4.0;
    const ORIGINAL_LENGTH: f64 = 8192.0;

    /// What the frequency of the pair `index` is divided by.
    #[allow(clippy::cast_precision_loss, reason = "widths of heads are small")]
    fn divisor(&self, theta: f64, head_dim: usize, index: usize) -> f64 {
        let wavelength = 2.0 * PI * theta.powf(2.0 * index as f64 / head_dim as f64);
        let turns = Self::ORIGINAL_LENGTH / wavelength;
        if turns > Self::HIGH_FREQ_FACTOR {
            1.0
        } else if turns < Self::LOW_FREQ_FACTOR {
            self.factor
        } else {
            let smooth =
                (turns - Self::LOW_FREQ_FACTOR) / (Self::HIGH_FREQ_FACTOR - Self::LOW_FREQ_FACTOR);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        }
    }

    fn parameters(&self) -> Value {
        json!({
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": Self::LOW_FREQ_FACTOR,
            "high_freq_factor": Self::HIGH_FREQ_FACTOR,
            "original_max_position_embeddings": 8192,
        })
    }
}
