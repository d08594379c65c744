//! `flametune info`: what a model is, without loading it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use flametune_data::{ChatTemplate, Tokenizer};
use flametune_lm::{
    BertConfig, Checkpoint, DecoderConfig, Family, Gpt2Config, StoredWeight, stored_weights,
};
use flametune_quant::{QuantConfig, QuantKind, WeightDtype, should_quantize};
use indicatif::HumanBytes;

use crate::device::stored_dtype;
use crate::quantize::QuantizeArgs;
use crate::{model, text};

/// Show what a model is: architecture, parameters, memory, tokenizer, chat template.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// A model folder, a .gguf file, or the name of a fetched model
    #[arg(default_value = model::DEFAULT_MODEL)]
    model: String,

    #[command(flatten)]
    quantize: QuantizeArgs,
}

impl Info {
    pub(crate) fn run(&self) -> Result<()> {
        let checkpoint = model::open(&self.model)?;
        let mut table = String::new();
        let mut row = |name: &str, value: String| {
            table.push_str(&format!("{name:<18} {value}\n"));
        };
        row("model", checkpoint.config().path().display().to_string());
        architecture(&checkpoint, &mut row)?;
        let quantize = self.quantize.config(stored_dtype(&checkpoint)?)?;
        tensors(&checkpoint, quantize, &mut row)?;
        match text::tokenizer(&checkpoint) {
            Ok(tokenizer) => tokenizer_rows(&tokenizer, &mut row),
            Err(error) => row("tokenizer", format!("unusable: {error:#}")),
        }
        write!(io::stdout(), "{table}")?;
        Ok(())
    }
}

/// The numbers of an architecture that people ask for.
struct Shape {
    layers: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    context: usize,
    windows: Vec<usize>,
}

impl Shape {
    fn read(checkpoint: &Checkpoint) -> Result<Self> {
        let file = checkpoint.config();
        Ok(match checkpoint.family()? {
            Family::Gpt2 => {
                let config = Gpt2Config::read(file)?;
                Self {
                    layers: config.n_layer,
                    width: config.n_embd,
                    heads: config.n_head,
                    kv_heads: config.n_head,
                    head_dim: config.n_embd / config.n_head,
                    vocab: config.vocab_size,
                    context: config.n_positions,
                    windows: Vec::new(),
                }
            }
            Family::Bert => {
                let config = BertConfig::read(file)?;
                Self {
                    layers: config.num_hidden_layers,
                    width: config.hidden_size,
                    heads: config.num_attention_heads,
                    kv_heads: 0,
                    head_dim: config.hidden_size / config.num_attention_heads,
                    vocab: config.vocab_size,
                    context: config.max_position_embeddings,
                    windows: Vec::new(),
                }
            }
            _ => {
                let config = DecoderConfig::read(file)?;
                let windows = config
                    .layers
                    .iter()
                    .filter_map(|layer| layer.sliding_window);
                Self {
                    layers: config.num_hidden_layers(),
                    width: config.hidden_size,
                    heads: config.num_attention_heads,
                    kv_heads: config.num_key_value_heads,
                    head_dim: config.head_dim,
                    vocab: config.vocab_size,
                    context: config.max_position_embeddings,
                    windows: windows.collect(),
                }
            }
        })
    }
}

fn architecture(checkpoint: &Checkpoint, row: &mut impl FnMut(&str, String)) -> Result<()> {
    let shape = Shape::read(checkpoint)?;
    let names = checkpoint
        .config()
        .raw()
        .get("architectures")
        .and_then(|list| list.as_array());
    let class = names
        .and_then(|names| names.first())
        .and_then(|name| name.as_str());
    let model_type = checkpoint.family()?.model_type();
    row(
        "architecture",
        class.map_or(model_type.into(), |class| format!("{class} ({model_type})")),
    );
    row(
        "shape",
        format!(
            "{} layers, d_model {}, {} heads of {}{}",
            shape.layers,
            shape.width,
            shape.heads,
            shape.head_dim,
            match shape.kv_heads {
                0 => String::new(),
                kv_heads => format!(", {kv_heads} key/value heads"),
            }
        ),
    );
    let window = match shape.windows.first() {
        Some(window) => format!(", {} layers see {window} tokens", shape.windows.len()),
        None => String::new(),
    };
    row("context", format!("{} tokens{window}", shape.context));
    row("vocabulary", format!("{} ids", shape.vocab));
    if shape.kv_heads > 0 {
        let numbers = 2 * shape.layers * shape.kv_heads * shape.head_dim;
        row(
            "KV cache",
            format!("{} a token in f32", HumanBytes(4 * numbers as u64)),
        );
    }
    Ok(())
}

fn tensors(
    checkpoint: &Checkpoint,
    quantize: Option<QuantConfig>,
    row: &mut impl FnMut(&str, String),
) -> Result<()> {
    let weights = stored_weights(checkpoint.tensors())?;
    let mut formats: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for weight in &weights {
        let entry = formats.entry(&weight.format).or_default();
        entry.0 += 1;
        entry.1 += weight.bytes as u64;
    }
    let parameters: u64 = weights.iter().map(numel).sum();
    row("parameters", grouped(parameters));
    let list: Vec<String> = formats
        .iter()
        .map(|(format, (count, bytes))| format!("{count} {format} ({})", HumanBytes(*bytes)))
        .collect();
    row("tensors", list.join(", "));
    let bytes = weights.iter().map(|weight| weight.bytes as u64).sum();
    row("size on disk", HumanBytes(bytes).to_string());

    let packed = Packed::of(&weights, quantize);
    if let Some(line) = packed.line() {
        row("quantized", line);
    }
    let dense = parameters - packed.numbers;
    row(
        "weights in memory",
        format!(
            "{} in f32, {} in bf16",
            HumanBytes(4 * dense + packed.bytes),
            HumanBytes(2 * dense + packed.bytes)
        ),
    );
    Ok(())
}

fn numel(weight: &StoredWeight) -> u64 {
    weight.shape.iter().map(|&dim| dim as u64).product()
}

/// The quantized weights of a checkpoint, or those that it would have.
#[derive(Default)]
struct Packed {
    kinds: BTreeSet<String>,
    layers: usize,
    numbers: u64,
    bytes: u64,
}

impl Packed {
    fn of(weights: &[StoredWeight], quantize: Option<QuantConfig>) -> Self {
        let mut found = Self::default();
        for weight in weights {
            let config = match &weight.packed {
                Some(packed) => Some(QuantConfig {
                    kind: packed.kind,
                    block_size: packed.block_size,
                    double_quant: packed.double_quant,
                    dtype: WeightDtype::F32,
                }),
                None if weight.shape.len() == 2 && should_quantize(&weight.name) => quantize,
                None => None,
            };
            let Some(config) = config else { continue };
            found.kinds.insert(describe(config));
            found.layers += 1;
            found.numbers += numel(weight);
            found.bytes += config.bytes(&weight.shape) as u64;
        }
        found
    }

    fn line(&self) -> Option<String> {
        let kinds: Vec<&str> = self.kinds.iter().map(String::as_str).collect();
        (self.layers > 0).then(|| {
            format!(
                "{} layers as {}: {:.3} bits a parameter, {}",
                self.layers,
                kinds.join(" and "),
                8.0 * self.bytes as f64 / self.numbers as f64,
                HumanBytes(self.bytes)
            )
        })
    }
}

fn describe(config: QuantConfig) -> String {
    let double = if config.double_quant {
        " with double quantization"
    } else {
        ""
    };
    match config.kind {
        QuantKind::Int8Vectorwise => config.kind.to_string(),
        kind => format!("{kind} in blocks of {}{double}", config.block_size),
    }
}

fn tokenizer_rows(tokenizer: &Tokenizer, row: &mut impl FnMut(&str, String)) {
    row("tokenizer", format!("{} tokens", tokenizer.vocab_size()));
    let special: Vec<String> = tokenizer
        .special()
        .named()
        .map(|(name, token)| format!("{name} {} ({})", token.text, token.id))
        .collect();
    row(
        "special tokens",
        if special.is_empty() {
            "none".into()
        } else {
            special.join(", ")
        },
    );
    let template = match tokenizer.chat_template() {
        None => "none".to_owned(),
        Some(source) => match ChatTemplate::new("chat_template", source) {
            Ok(template) if template.has_generation_tags() => {
                format!(
                    "{} characters, marks assistant turns",
                    source.chars().count()
                )
            }
            Ok(_) => format!("{} characters", source.chars().count()),
            Err(error) => format!("unusable: {error}"),
        },
    };
    row("chat template", template);
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (134_515_008, "134,515,008"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }
}
