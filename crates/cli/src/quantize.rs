//! `flametune quantize`: a checkpoint with 4- or 8-bit layers, as bitsandbytes stores them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use flametune_lm::{Checkpoint, LoadOptions, QuantizeOptions};
use flametune_quant::{BaseLinear, QuantConfig, QuantKind, WeightDtype};
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};

use crate::device::{DtypeName, stored_dtype};
use crate::{model, text};

/// Whether and how linear layers are quantized while a model is loaded.
#[derive(Debug, Args)]
#[command(next_help_heading = "Quantization")]
pub(crate) struct QuantizeArgs {
    /// Quantize the linear layers while loading; heads, embeddings and norms stay as they are
    #[arg(long, value_enum, value_name = "KIND")]
    quantize: Option<KindName>,

    /// Numbers that share a scale: 32, 64, 128, up to 4096; rows have one scale each
    #[arg(long, default_value_t = 64, value_name = "N")]
    block_size: usize,

    /// Store the scales of blocks in eight bits as well
    #[arg(long)]
    double_quant: bool,
}

/// A kind of quantized weight by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KindName {
    /// Four bits, the quantiles of the normal distribution
    Nf4,
    /// Four bits, floating point
    Fp4,
    /// Eight bits, one scale a block; only in memory
    Int8,
    /// Eight bits, one scale a row
    #[value(name = "int8_vectorwise")]
    Int8Vectorwise,
}

impl QuantizeArgs {
    /// What a recipe asks for.
    pub(crate) fn new(kind: KindName, block_size: usize, double_quant: bool) -> Self {
        Self {
            quantize: Some(kind),
            block_size,
            double_quant,
        }
    }

    /// What is asked for, of weights that had the type `dtype`.
    pub(crate) fn config(&self, dtype: DType) -> Result<Option<QuantConfig>> {
        match self.quantize {
            None if self.double_quant => bail!("--double-quant needs --quantize"),
            None => Ok(None),
            Some(kind) => self.config_of(kind, dtype).map(Some),
        }
    }

    fn config_of(&self, kind: KindName, dtype: DType) -> Result<QuantConfig> {
        let config = QuantConfig {
            kind: match kind {
                KindName::Nf4 => QuantKind::Nf4,
                KindName::Fp4 => QuantKind::Fp4,
                KindName::Int8 => QuantKind::Int8,
                KindName::Int8Vectorwise => QuantKind::Int8Vectorwise,
            },
            block_size: self.block_size,
            double_quant: self.double_quant,
            dtype: match dtype {
                DType::BF16 => WeightDtype::Bf16,
                DType::F16 => WeightDtype::F16,
                _ => WeightDtype::F32,
            },
        };
        config.validate()?;
        Ok(config)
    }

    /// Adds what is asked for to the options of loading.
    pub(crate) fn apply(&self, options: LoadOptions) -> Result<LoadOptions> {
        Ok(match self.config(options.weight_dtype)? {
            Some(config) => options.with_quantize(QuantizeOptions::new(config)),
            None => options,
        })
    }
}

/// Write a model with 4- or 8-bit layers, in the form that transformers and bitsandbytes load.
///
/// Example:
///
///   flametune quantize ./my-model ./my-model-nf4 --quantize nf4 --double-quant
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Quantize {
    /// A model folder, a .gguf file, or the name of a fetched model
    model: String,

    /// The folder to write
    output: PathBuf,

    /// Number format of what is not quantized; auto keeps 16-bit files as they are
    #[arg(long, value_enum, default_value_t = DtypeName::Auto, value_name = "DTYPE")]
    dtype: DtypeName,

    #[command(flatten)]
    quantize: QuantizeArgs,
}

/// Larger checkpoints are split; the size that `huggingface_hub` uses.
pub(crate) const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// What stands beside the weights in a model folder and belongs to the model.
const COMPANIONS: [&str; 11] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

impl Quantize {
    pub(crate) fn run(&self) -> Result<()> {
        let checkpoint = model::open(&self.model)?;
        let source = folder(&checkpoint);
        if same_folder(source, &self.output) {
            bail!(
                "the output folder {} is that of the model",
                self.output.display()
            );
        }
        let dtype = match self.dtype {
            DtypeName::Auto => stored_dtype(&checkpoint)?,
            DtypeName::F32 => DType::F32,
            DtypeName::Bf16 => DType::BF16,
            DtypeName::F16 => DType::F16,
        };
        let kind = self.quantize.quantize.unwrap_or(KindName::Nf4);
        let config = self.quantize.config_of(kind, dtype)?;
        if config.kind == QuantKind::Int8 {
            bail!("int8 in blocks has no form on disk; int8_vectorwise, nf4 and fp4 have");
        }
        let options = LoadOptions::new(&Device::flex(), dtype, dtype)
            .with_quantize(QuantizeOptions::new(config));
        let model = model::load(&checkpoint, &options)?;
        let saved = model
            .save_pretrained(&self.output, checkpoint.config(), MAX_SHARD_BYTES)
            .context("cannot write the model")?;
        copy_companions(&checkpoint, &self.output)?;

        let (mut layers, mut numbers, mut bytes) = (0, 0, 0);
        for (_, linear) in model.linears() {
            if let BaseLinear::Quant(layer) = &linear.base_layer {
                layers += 1;
                numbers += layer.d_in() * layer.d_out();
                bytes += layer.bytes();
            }
        }
        let mut err = io::stderr().lock();
        writeln!(
            err,
            "{}: {layers} layers as {} at {:.3} bits a parameter, {} in all",
            self.output.display(),
            config.kind,
            8.0 * bytes as f64 / numbers.max(1) as f64,
            HumanBytes(saved.tensor_bytes as u64),
        )?;
        Ok(())
    }
}

/// Gives `output` the tokenizer and templates of a model: its files, or what its GGUF header says.
pub(crate) fn copy_companions(checkpoint: &Checkpoint, output: &Path) -> Result<()> {
    if checkpoint.gguf().is_some() {
        let tokenizer = text::tokenizer(checkpoint).context("cannot read the tokenizer")?;
        return Ok(tokenizer.save_pretrained(output)?);
    }
    let source = folder(checkpoint);
    for name in COMPANIONS {
        let file = source.join(name);
        if file.is_file() {
            fs::copy(&file, output.join(name))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}

/// The folder that a checkpoint lies in.
pub(crate) fn folder(checkpoint: &Checkpoint) -> &Path {
    checkpoint
        .config()
        .path()
        .parent()
        .unwrap_or(Path::new("."))
}

pub(crate) fn same_folder(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
