//! `flametune export`: models and adapters in the files of other servers.

mod adapter;
mod gguf;
mod gguf_lora;
mod merged;
mod probes;
mod staged;

use std::path::PathBuf;

use anyhow::{Result, bail};
use burn::module::Param;
use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{BaseRef, MergeOptions, SlotModule, Slots, merge_and_unload};
use flametune_quant::gguf::GgmlType;
use flametune_quant::{BaseLinear, DenseLinear};

use crate::adapter::{NAME, load, passport};
use crate::device::stored_dtype;
use crate::model;

/// Write a model or an adapter in the files of other servers.
///
/// What is written is read back and its logits are compared before it appears under its name.
///
/// Examples:
///
///   flametune export --to gguf --type q8_0 ./my-model my-model.gguf
///   flametune export --to hf --adapter ./sql ./my-model ./my-model-sql
///   flametune export --to adapter --adapter ./sql ./my-model ./sql-for-vllm
///   flametune export --to gguf-lora --adapter ./sql ./my-model sql.gguf
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Export {
    /// The base: a model folder, a .gguf file, or the name of a fetched model
    model: String,

    /// The file or folder to write
    output: PathBuf,

    /// What to write
    #[arg(long, value_enum, value_name = "FORM")]
    to: Form,

    /// An adapter: merged into the model, or written itself
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,

    /// How numbers are stored in GGUF files
    #[arg(long = "type", value_enum, default_value_t = TypeName::F16, value_name = "TYPE")]
    kind: TypeName,

    /// The largest mean divergence (KL, in nats) of the probes' next tokens from those of what is
    /// exported; nothing is written above it. Usual values depend on --type
    #[arg(long, value_name = "X")]
    max_kl: Option<f64>,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A Hugging Face folder, with the adapter in its weights
    Hf,
    /// A LoRA folder as vLLM loads them
    Adapter,
    /// A GGUF file, with the adapter in its weights
    Gguf,
    /// A GGUF file of a LoRA, as llama.cpp loads them beside the base
    GgufLora,
}

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TypeName {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_k")]
    Q4K,
}

impl TypeName {
    fn ggml(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::BF16,
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q4_0 => GgmlType::Q4_0,
            Self::Q4K => GgmlType::Q4_K,
        }
    }

    /// The divergence that the type explains, with room above what was measured of SmolLM2-135M:
    /// 6e-6 in F16, 6e-3 in Q8_0, 0.26 in Q4_K and 0.77 in Q4_0. Small models and ids that look
    /// random, as those of the probes, suffer most.
    fn usual_kl(self) -> f64 {
        match self {
            Self::F32 => 1e-6,
            Self::F16 | Self::Bf16 => 1e-2,
            Self::Q8_0 => 2e-2,
            Self::Q4_0 | Self::Q4K => 2.0,
        }
    }
}

impl Export {
    pub(crate) fn run(&self) -> Result<()> {
        let checkpoint = model::open(&self.model)?;
        let max_kl = self.max_kl.unwrap_or_else(|| self.kind.usual_kl());
        if !(max_kl.is_finite() && max_kl >= 0.0) {
            bail!("--max-kl must be finite and not negative, got {max_kl}");
        }
        match self.to {
            Form::Hf => {
                let model = self.merged(&checkpoint, stored_dtype(&checkpoint)?)?;
                merged::export(&model, &checkpoint, &self.output, max_kl)
            }
            Form::Gguf => gguf::export(
                &self.merged(&checkpoint, DType::F32)?,
                &checkpoint,
                &self.output,
                self.kind.ggml(),
                max_kl,
            ),
            Form::Adapter => {
                let (model, pass) = self.adapted(&checkpoint)?;
                adapter::export(&model, &pass, &checkpoint, &self.output, max_kl)
            }
            Form::GgufLora => {
                let (model, pass) = self.adapted(&checkpoint)?;
                let kind = self.kind.ggml();
                gguf_lora::export(&model, &pass, &checkpoint, &self.output, kind, max_kl)
            }
        }
    }

    /// The dense model with the adapter, if there is one, in its weights.
    fn merged(&self, checkpoint: &Checkpoint, dtype: DType) -> Result<CausalLm> {
        let mut model = model::load(checkpoint, &options(dtype))?;
        if let Some(folder) = &self.adapter {
            load(&mut model, folder)?;
            passport::check(folder, checkpoint, &model)?;
            merge_and_unload(&mut model, &[NAME], &MergeOptions::default())?;
        }
        dequantize(&mut model);
        Ok(model)
    }

    fn adapted(&self, checkpoint: &Checkpoint) -> Result<(CausalLm, AdapterPass)> {
        let Some(folder) = &self.adapter else {
            bail!("this form is of an adapter: name one with --adapter FOLDER");
        };
        let mut model = model::load(checkpoint, &options(DType::F32))?;
        let pass = load(&mut model, folder)?;
        passport::check(folder, checkpoint, &model)?;
        Ok((model, pass))
    }
}

/// Makes every layer dense.
fn dequantize(model: &mut CausalLm) {
    model.visit_slots(&mut |slot| {
        let SlotModule::Linear(linear) = slot.module else {
            return;
        };
        let BaseRef::Own(base) = linear.base else {
            return;
        };
        if let BaseLinear::Quant(layer) = &*base {
            let weight = layer.dequantize().cast(base.dtype());
            *base = BaseLinear::Dense(DenseLinear {
                weight: Param::from_tensor(weight),
                bias: base.bias().cloned(),
                fan_in_fan_out: base.fan_in_fan_out(),
                precision: base.precision(),
            });
        }
    });
}

/// Weights in the format that they are written in, everything else in f32.
fn options(dtype: DType) -> LoadOptions {
    LoadOptions::new(&Device::flex(), dtype, DType::F32)
}
