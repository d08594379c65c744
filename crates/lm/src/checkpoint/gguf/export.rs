//! Hugging Face checkpoints as GGUF files: the reverse of what reading undoes.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::Path;

use flametune_quant::gguf::Value;

use super::architecture::Architecture;
use super::layout::Layout;
use super::names::{ROPE_FREQS, hugging_face_name};
use crate::config::{ConfigFile, DecoderConfig, Family, RopeConfig, RopeScaling};
use crate::error::{Error, Result};

/// How a model stands in a GGUF file: llama.cpp's metadata, names and layouts.
///
/// # Source
/// - `convert_hf_to_gguf.py` of llama.cpp; `constants.py` and `tensor_mapping.py` of PyPI `gguf`
///   0.19.0
#[derive(Debug, Clone, PartialEq)]
pub struct GgufPlan {
    /// The metadata of the architecture, in the order of llama.cpp's converter.
    pub metadata: Vec<(String, Value)>,
    /// The tensors, in the order of their names in the checkpoint.
    pub tensors: Vec<GgufPart>,
}

/// A tensor of a GGUF file and where its numbers come from.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufPart {
    /// The name in the file.
    pub name: String,
    /// The shape in the file, outermost dimension first.
    pub shape: Vec<usize>,
    /// What the numbers are.
    pub source: GgufSource,
}

/// Where the numbers of a tensor come from.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufSource {
    /// A tensor of the checkpoint, its rows in an order of their own.
    Tensor {
        /// Its name in the checkpoint.
        name: String,
        /// The order of its rows.
        rows: RowOrder,
    },
    /// Numbers that follow from the configuration.
    Numbers(Vec<f32>),
}

/// The order in which a GGUF file has the rows of a tensor.
///
/// The rows of Llama's queries and keys are turned so that channels which rotate together stand
/// beside each other: row `i` of the second half of a head comes behind row `i` of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowOrder(Option<usize>);

impl RowOrder {
    /// Puts rows of `width` numbers from the checkpoint's order into the file's.
    #[must_use]
    pub fn arrange(self, values: Vec<f32>, width: usize) -> Vec<f32> {
        self.reorder(values, width, |layout, row| (layout.stored_row(row), row))
    }

    /// Puts rows of `width` numbers from the file's order into the checkpoint's.
    #[must_use]
    pub fn restore(self, values: Vec<f32>, width: usize) -> Vec<f32> {
        self.reorder(values, width, |layout, row| (row, layout.stored_row(row)))
    }

    /// `places` gives for each row where it goes and where it comes from.
    fn reorder(
        self,
        values: Vec<f32>,
        width: usize,
        places: impl Fn(Layout, usize) -> (usize, usize),
    ) -> Vec<f32> {
        let Some(head_dim) = self.0.filter(|_| width > 0) else {
            return values;
        };
        let layout = Layout::Interleaved { head_dim };
        let mut out = vec![0.0; values.len()];
        for row in 0..values.len() / width {
            let (to, from) = places(layout, row);
            let (to, from) = (to * width, from * width);
            if let (Some(out), Some(values)) =
                (out.get_mut(to..to + width), values.get(from..from + width))
            {
                out.copy_from_slice(values);
            }
        }
        out
    }
}

/// The names of the tensors of one model, forwards and back.
#[derive(Debug)]
pub struct GgufNames {
    architecture: Architecture,
    head_dim: usize,
    /// GGUF name by Hugging Face name.
    names: BTreeMap<String, String>,
}

/// What stands in a layer, and outside of all, in every architecture that is written.
const IN_LAYER: [&str; 11] = [
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "attn_q_norm",
    "attn_k_norm",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];
const OUTSIDE: [&str; 3] = ["token_embd", "output_norm", "output"];

impl GgufNames {
    /// The names that the tensors of a model have.
    ///
    /// # Errors
    /// [`Error::UnsupportedArchitecture`] for an architecture that is not written
    pub fn new(config: &ConfigFile) -> Result<Self> {
        let architecture = architecture(Family::read(config)?)?;
        let decoder = DecoderConfig::read(config)?;
        Ok(Self::of(architecture, &decoder))
    }

    fn of(architecture: Architecture, config: &DecoderConfig) -> Self {
        let layers = config.num_hidden_layers();
        let outside = OUTSIDE.iter().map(|&stem| stem.to_owned());
        let inside = (0..layers).flat_map(|layer| {
            IN_LAYER
                .iter()
                .map(move |stem| format!("blk.{layer}.{stem}"))
        });
        let mut names = BTreeMap::new();
        for stem in outside.chain(inside) {
            for parameter in ["weight", "bias"] {
                let name = format!("{stem}.{parameter}");
                if let Some(known) = hugging_face_name(architecture, &name, layers) {
                    names.insert(known, name);
                }
            }
        }
        Self {
            architecture,
            head_dim: config.head_dim,
            names,
        }
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> &'static str {
        self.architecture.name()
    }

    /// The name in the file of a tensor of the checkpoint, and the order of its rows there.
    pub fn get(&self, name: &str) -> Option<(&str, RowOrder)> {
        let gguf = self.names.get(name)?;
        let turned = matches!(self.architecture, Architecture::Llama)
            && (name.contains(".q_proj.") || name.contains(".k_proj."));
        Some((gguf, RowOrder(turned.then_some(self.head_dim))))
    }
}

fn architecture(family: Family) -> Result<Architecture> {
    match family.model_type() {
        "llama" | "mistral" => Ok(Architecture::Llama),
        "qwen2" => Ok(Architecture::Qwen2),
        "qwen3" => Ok(Architecture::Qwen3),
        other => Err(Error::UnsupportedArchitecture {
            model_type: other.to_owned(),
            supported: ["llama", "mistral", "qwen2", "qwen3"]
                .map(str::to_owned)
                .to_vec(),
        }),
    }
}

impl GgufPlan {
    /// Plans a file for a model with this configuration and these tensors, by name and shape.
    ///
    /// # Errors
    /// - [`Error::UnsupportedArchitecture`] for an architecture that is not written
    /// - [`Error::UnsupportedOption`] for what llama.cpp's metadata cannot say
    /// - [`Error::UnknownTensors`] for tensors without a name there
    pub fn new(config: &ConfigFile, tensors: &[(String, Vec<usize>)]) -> Result<Self> {
        let names = GgufNames::new(config)?;
        let decoder = DecoderConfig::read(config)?;
        let rope = sole_rope(config.path(), &decoder)?;
        let metadata = metadata(config.path(), &names, &decoder, rope)?;
        let mut parts = Vec::with_capacity(tensors.len() + 1);
        let mut unknown = Vec::new();
        for (name, shape) in tensors {
            match names.get(name) {
                Some((gguf, rows)) => parts.push(GgufPart {
                    name: gguf.to_owned(),
                    shape: shape.clone(),
                    source: GgufSource::Tensor {
                        name: name.clone(),
                        rows,
                    },
                }),
                None => unknown.push(name.clone()),
            }
        }
        if !unknown.is_empty() {
            return Err(Error::UnknownTensors {
                names: unknown,
                file: config.path().to_owned(),
            });
        }
        if let Some(factors) = rope_factors(rope) {
            parts.push(GgufPart {
                name: ROPE_FREQS.to_owned(),
                shape: vec![factors.len()],
                source: GgufSource::Numbers(factors),
            });
        }
        Ok(Self {
            metadata,
            tensors: parts,
        })
    }
}

fn unsupported(field: &str, value: &dyn std::fmt::Display, hint: &str) -> Error {
    Error::UnsupportedOption {
        field: field.to_owned(),
        value: value.to_string(),
        hint: hint.to_owned(),
    }
}

/// The rotation that all layers use.
fn sole_rope<'a>(file: &Path, config: &'a DecoderConfig) -> Result<&'a RopeConfig> {
    let first = config.layers.first().and_then(|layer| layer.rope);
    let same = config.layers.iter().all(|layer| layer.rope == first);
    match first.and_then(|index| config.ropes.get(index)) {
        Some(rope) if same => Ok(rope),
        _ => Err(Error::InvalidConfig {
            file: file.to_owned(),
            field: "layer_types".to_owned(),
            reason: "layers that rotate differently have no form in a GGUF file".to_owned(),
        }),
    }
}

fn metadata(
    file: &Path,
    names: &GgufNames,
    config: &DecoderConfig,
    rope: &RopeConfig,
) -> Result<Vec<(String, Value)>> {
    let size = |field: &str, value: usize| {
        u32::try_from(value)
            .map(Value::U32)
            .map_err(|_| Error::InvalidConfig {
                file: file.to_owned(),
                field: field.to_owned(),
                reason: format!("{value} does not fit a GGUF file"),
            })
    };
    let mut pairs = vec![(
        "general.architecture".to_owned(),
        Value::String(names.architecture().to_owned()),
    )];
    let mut add = |suffix: &str, value: Value| {
        pairs.push((names.architecture.key(suffix), value));
    };
    for (suffix, value) in [
        ("block_count", config.num_hidden_layers()),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", rope.rot_dim),
        ("vocab_size", config.vocab_size),
    ] {
        add(suffix, size(suffix, value)?);
    }
    add(
        "attention.layer_norm_rms_epsilon",
        single(norm_epsilon(config)?),
    );
    add("rope.freq_base", single(rope.rope_theta));
    let windows: Vec<_> = config
        .layers
        .iter()
        .map(|layer| layer.sliding_window)
        .collect();
    match windows.first().copied().flatten() {
        None if windows.iter().all(Option::is_none) => {}
        Some(window)
            if config.family.model_type() == "mistral"
                && windows.iter().all(|other| *other == Some(window)) =>
        {
            add(
                "attention.sliding_window",
                size("attention.sliding_window", window)?,
            );
        }
        _ => {
            return Err(unsupported(
                "sliding_window",
                &"of some layers",
                "only models whose layers all have the same window are written",
            ));
        }
    }
    match &rope.scaling {
        // Factors of frequencies are a tensor.
        RopeScaling::Default | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Linear { factor } => {
            add("rope.scaling.type", Value::String("linear".to_owned()));
            add("rope.scaling.factor", single(*factor));
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            truncate: true,
            original_max_position_embeddings,
        } => {
            let original = "rope.scaling.original_context_length";
            add("rope.scaling.type", Value::String("yarn".to_owned()));
            add("rope.scaling.factor", single(*factor));
            add(original, size(original, *original_max_position_embeddings)?);
            add("rope.scaling.yarn_beta_fast", single(*beta_fast));
            add("rope.scaling.yarn_beta_slow", single(*beta_slow));
            // llama.cpp multiplies this by YaRN's own factor.
            let own = if *factor > 1.0 {
                0.1 * factor.ln() + 1.0
            } else {
                1.0
            };
            add(
                "rope.scaling.attn_factor",
                single(rope.attention_factor / own),
            );
        }
        other => {
            return Err(unsupported(
                "rope_type",
                &format!("{other:?}"),
                "default, linear, llama3 and yarn are written",
            ));
        }
    }
    Ok(pairs)
}

fn norm_epsilon(config: &DecoderConfig) -> Result<f64> {
    match config.norm {
        flametune_peft::Norm::Rms { eps } => Ok(eps),
        other => Err(unsupported(
            "norm",
            &format!("{other:?}"),
            "only RMS normalisation is written",
        )),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "llama.cpp's metadata is in single precision"
)]
fn single(value: f64) -> Value {
    Value::F32(value as f32)
}

/// What llama.cpp divides the frequencies of Llama 3 by: 1 for short wavelengths, `factor` for
/// long ones, a ramp between.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "widths of heads are small, and factors are stored in single precision"
)]
fn rope_factors(rope: &RopeConfig) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    } = rope.scaling
    else {
        return None;
    };
    let divisor = |index: usize| {
        let exponent = 2.0 * index as f64 / rope.rot_dim as f64;
        let wavelength = 2.0 * PI * rope.rope_theta.powf(exponent);
        let turns = original_max_position_embeddings as f64 / wavelength;
        if turns > high_freq_factor {
            1.0
        } else if turns < low_freq_factor {
            factor
        } else {
            let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some(
        (0..rope.rot_dim / 2)
            .map(|index| divisor(index) as f32)
            .collect(),
    )
}
