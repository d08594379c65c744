//! `flametune adapter merge`: an adapter into the weights of its base.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, activation};
use clap::Args;
use flametune_lm::{AdapterPass, CausalLm, LoadOptions, TokenBatch};
use flametune_peft::{BaseRef, MergeOptions, SlotModule, Slots, load_adapter, merge_and_unload};
use flametune_quant::{BaseLinear, DenseLinear, QuantConfig, QuantLinear};

use crate::device::stored_dtype;
use crate::model;
use crate::quantize::{MAX_SHARD_BYTES, copy_companions, folder, same_folder};

/// Write a model with an adapter in its weights.
///
/// A quantized base is dequantized first, and with --requantize quantized again as it was; what
/// that changes is measured and shown.
///
/// Examples:
///
///   flametune adapter merge ./my-adapter ./merged --base ./my-model
///   flametune adapter merge ./my-adapter ./merged --base ./my-model-nf4 --requantize --max-change 0.1
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Merge {
    /// The adapter's folder
    adapter: PathBuf,

    /// The folder to write
    output: PathBuf,

    /// The base: a model folder, a .gguf file, or the name of a fetched model; without it the one
    /// that the adapter names
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,

    /// Quantize the layers of a quantized base again
    #[arg(long)]
    requantize: bool,

    /// The largest relative change of a merged weight by the format it is stored in; nothing is
    /// written above it
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    max_change: f64,
}

/// The quantized layers of a model by their names.
type Quantized = BTreeMap<String, QuantConfig>;

impl Merge {
    pub(super) fn run(&self) -> Result<()> {
        let checkpoint = super::base(self.base.as_deref(), &self.adapter)?;
        if same_folder(folder(&checkpoint), &self.output) {
            bail!("the output folder is that of the base");
        }
        let options = LoadOptions::new(&Device::flex(), stored_dtype(&checkpoint)?, DType::F32);
        let mut model = model::load(&checkpoint, &options)?;
        load_adapter(&mut model, super::NAME, &self.adapter).context("cannot load the adapter")?;
        let before = logps(&model, &AdapterPass::one(super::NAME))?;
        let quantized = quantized(&mut model);
        if self.requantize && quantized.is_empty() {
            bail!("--requantize needs a quantized base");
        }
        let limit = MergeOptions {
            max_error: Some(self.max_change),
        };
        let report = merge_and_unload(&mut model, &[super::NAME], &limit)
            .context("cannot merge the adapter")?;
        let mut out = io::stdout().lock();
        writeln!(out, "{report}")?;
        if self.requantize {
            let changes = requantize(&mut model, &quantized)?;
            for (path, change) in &changes {
                writeln!(out, "{path}  requantized, change {change:.3e}")?;
            }
            let largest = changes
                .iter()
                .map(|(_, change)| *change)
                .fold(0.0, f64::max);
            writeln!(out, "largest change by quantization {largest:.3e}")?;
            if largest > self.max_change {
                bail!(
                    "quantizing again changes a merged weight by {largest:.3e}, the limit is \
                     {:.3e}; raise --max-change, or write a dense model without --requantize",
                    self.max_change
                );
            }
        } else {
            dequantize(&mut model);
        }
        let after = logps(&model, &AdapterPass::default())?;
        writeln!(
            out,
            "mean KL of the logits {:.3e}",
            divergence(before, after)
        )?;
        let saved = model
            .save_pretrained(&self.output, checkpoint.config(), MAX_SHARD_BYTES)
            .context("cannot write the model")?;
        copy_companions(&checkpoint, &self.output)?;
        writeln!(
            io::stderr(),
            "{}: {} bytes of weights",
            self.output.display(),
            saved.tensor_bytes
        )?;
        Ok(())
    }
}

fn each_linear(model: &mut CausalLm, mut visit: impl FnMut(&str, &mut BaseLinear)) {
    model.visit_slots(&mut |slot| {
        if let SlotModule::Linear(linear) = slot.module
            && let BaseRef::Own(base) = linear.base
        {
            visit(slot.path, base);
        }
    });
}

fn quantized(model: &mut CausalLm) -> Quantized {
    let mut found = Quantized::new();
    each_linear(model, |path, base| {
        if let BaseLinear::Quant(layer) = base {
            found.insert(path.to_owned(), layer.config());
        }
    });
    found
}

/// Quantizes what merging has made dense, and returns the relative change of each weight.
fn requantize(model: &mut CausalLm, quantized: &Quantized) -> Result<Vec<(String, f64)>> {
    let mut changes = Vec::new();
    let mut outcome = Ok(());
    each_linear(model, |path, base| {
        let (BaseLinear::Dense(dense), Some(&config)) = (&*base, quantized.get(path)) else {
            return;
        };
        match QuantLinear::quantize(dense, config) {
            Err(error) => outcome = Err(error),
            Ok(layer) => {
                let exact = dense.weight.val().cast(DType::F32);
                let change = norm(layer.dequantize().cast(DType::F32) - exact.clone());
                changes.push((path.to_owned(), change / norm(exact).max(f64::MIN_POSITIVE)));
                *base = BaseLinear::Quant(layer);
            }
        }
    });
    outcome?;
    Ok(changes)
}

/// Makes every layer dense.
fn dequantize(model: &mut CausalLm) {
    each_linear(model, |_, base| {
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

fn norm(matrix: Tensor<2>) -> f64 {
    let data = matrix.into_data();
    data.iter::<f64>().map(|x| x * x).sum::<f64>().sqrt()
}

/// Log-probabilities after a few fixed rows of ids that look random.
fn logps(model: &CausalLm, pass: &AdapterPass) -> Result<Tensor<3>> {
    const ROWS: usize = 2;
    const LENGTH: usize = 16;
    let vocab = u64::try_from(model.vocab_size())?.max(1);
    let id = |place: usize| {
        let mixed = (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        u32::try_from(mixed % vocab)
    };
    let length = LENGTH.min(model.max_position_embeddings().max(1));
    let row = |row: usize| (0..length).map(|at| id(row * length + at)).collect();
    let rows = (0..ROWS).map(row).collect::<Result<Vec<Vec<u32>>, _>>()?;
    let batch = TokenBatch::from_rows(&rows)?;
    let logits = model.logits(model.forward(&batch, None, pass)?, pass);
    Ok(activation::log_softmax(logits, 2))
}

/// `Σ p·(ln p − ln q)`, the mean over all positions.
fn divergence(before: Tensor<3>, after: Tensor<3>) -> f64 {
    let each = before.clone().exp() * (before - after);
    f64::from(each.sum_dim(2).mean().into_scalar::<f32>()).max(0.0)
}
