//! A GGUF file of a LoRA.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, GgufNames, RowOrder};
use flametune_peft::{LinearMethod, SlotModule, Slots};
use flametune_quant::gguf::{GgmlType, GgufFile, GgufSpec, Value, write_gguf};

use super::adapter::plain_lora;
use super::probes::{compare, logps};
use crate::adapter::NAME;

/// The factors of one linear layer.
#[derive(Debug)]
struct Factors {
    /// The base's tensor in a GGUF file.
    name: String,
    rows: RowOrder,
    r: usize,
    d_in: usize,
    d_out: usize,
    scaling: f64,
    /// `[r, d_in]`.
    a: Vec<f32>,
    /// `[d_out, r]`.
    b: Vec<f32>,
}

/// Writes the LoRA of the model for use beside a GGUF file of its base.
///
/// llama.cpp multiplies by `alpha / r` of each layer. Where that gives every layer its own
/// scaling, `alpha` says so; else it is zero, which means a factor of one, and the scaling is in B.
pub(super) fn export(
    model: &CausalLm,
    pass: &AdapterPass,
    checkpoint: &Checkpoint,
    output: &Path,
    kind: GgmlType,
    max_kl: f64,
) -> Result<()> {
    if !matches!(kind, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16) {
        bail!("the factors of a LoRA are stored in f32, f16 or bf16, got {kind}");
    }
    if output
        .extension()
        .is_none_or(|extension| extension != "gguf")
    {
        bail!("the output must be a .gguf file, got {}", output.display());
    }
    plain_lora(model)?;
    let names = GgufNames::new(checkpoint.config())?;
    let mut factors = factors(model, &names)?;
    let alpha = common_alpha(&factors);
    if alpha.is_none() {
        for layer in &mut factors {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "as the forward pass multiplies"
            )]
            let scaling = layer.scaling as f32;
            layer.b.iter_mut().for_each(|x| *x *= scaling);
            layer.scaling = 1.0;
        }
    }
    let staged = write(output, &names, &factors, alpha.unwrap_or(0.0), kind)
        .with_context(|| format!("cannot write {}", output.display()))?;

    let expected = logps(model, pass)?;
    let file = GgufFile::open(staged.path()).context("cannot read back what was written")?;
    let mut again = model.clone();
    read_back(&mut again, &file, &factors)?;
    let kl = compare(expected, logps(&again, pass)?, max_kl)?;
    drop(file);
    let bytes = staged.bytes();
    staged.publish()?;
    writeln!(
        io::stderr(),
        "{}: {} layers, {bytes} bytes, {kind}, divergence {kl:.1e} nats a token",
        output.display(),
        factors.len()
    )?;
    Ok(())
}

/// The factors of all layers, in the order of the model.
fn factors(model: &CausalLm, names: &GgufNames) -> Result<Vec<Factors>> {
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    model.clone().visit_slots(&mut |slot| {
        let adapted = match slot.module {
            SlotModule::Linear(linear) => {
                for part in linear.adapters.iter().filter(|part| part.name == NAME) {
                    let weight = format!("{}.weight", slot.path);
                    match (&part.method, names.get(&weight)) {
                        (LinearMethod::Lora(lora), Some((name, rows))) => {
                            let (a, b) = (lora.lora_a.val(), lora.lora_b.val());
                            let ([r, d_in], [d_out, _]) = (a.dims(), b.dims());
                            found.push(Factors {
                                name: name.to_owned(),
                                rows,
                                r,
                                d_in,
                                d_out,
                                scaling: lora.scaling,
                                a: a.into_data().iter::<f32>().collect(),
                                b: b.into_data().iter::<f32>().collect(),
                            });
                        }
                        _ => unknown.push(slot.path.to_owned()),
                    }
                }
                false
            }
            SlotModule::Embedding(table) => table.adapters.iter().any(|part| part.name == NAME),
            _ => false,
        };
        if adapted {
            unknown.push(slot.path.to_owned());
        }
    });
    if !unknown.is_empty() {
        bail!(
            "llama.cpp has no place for the adapter's part of {}; merge it with --to gguf",
            unknown.join(", ")
        );
    }
    if found.is_empty() {
        bail!("the adapter has no layers");
    }
    Ok(found)
}

/// The `alpha` for which `alpha / r` is the scaling of every layer.
fn common_alpha(factors: &[Factors]) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    let alpha = |layer: &Factors| layer.scaling * layer.r as f64;
    let first = alpha(factors.first()?);
    let same = |layer: &Factors| (alpha(layer) - first).abs() <= 1e-12 * first.abs();
    // Zero would mean a factor of one.
    (first != 0.0 && factors.iter().all(same)).then_some(first)
}

fn write(
    output: &Path,
    names: &GgufNames,
    factors: &[Factors],
    alpha: f64,
    kind: GgmlType,
) -> Result<flametune_quant::gguf::StagedGguf> {
    let text = |text: &str| Value::String(text.to_owned());
    #[expect(
        clippy::cast_possible_truncation,
        reason = "llama.cpp's metadata is in single precision"
    )]
    let pairs = [
        ("general.architecture", text(names.architecture())),
        ("general.type", text("adapter")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(alpha as f32)),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    let mut specs = Vec::with_capacity(factors.len() * 2);
    let mut values = BTreeMap::new();
    for layer in factors {
        let (a, b) = (
            format!("{}.lora_a", layer.name),
            format!("{}.lora_b", layer.name),
        );
        for (name, shape) in [
            (&a, vec![layer.r, layer.d_in]),
            (&b, vec![layer.d_out, layer.r]),
        ] {
            specs.push(GgufSpec {
                name: name.clone(),
                shape,
                kind,
            });
        }
        values.insert(a, layer.a.clone());
        // The rows of B are those of the base's matrix.
        values.insert(b, layer.rows.arrange(layer.b.clone(), layer.r));
    }
    write_gguf(output, &pairs, &specs, |spec| {
        let values = values.remove(&spec.name);
        values.ok_or_else(|| anyhow!("{} was not planned", spec.name))
    })
}

/// Puts the factors of the file in the places of the model's own.
fn read_back(model: &mut CausalLm, file: &GgufFile, factors: &[Factors]) -> Result<()> {
    use burn::module::Param;
    use burn::tensor::{Tensor, TensorData};

    let mut layers = factors.iter();
    let mut outcome = Ok(());
    let alpha = file.metadata().require::<f64>("adapter.lora.alpha")?;
    model.visit_slots(&mut |slot| {
        let SlotModule::Linear(linear) = slot.module else {
            return;
        };
        for part in linear.adapters.iter_mut().filter(|part| part.name == NAME) {
            let (LinearMethod::Lora(lora), Some(layer)) = (&mut part.method, layers.next()) else {
                continue;
            };
            let read = || -> Result<(Vec<f32>, Vec<f32>)> {
                let a = file.dequantize(&format!("{}.lora_a", layer.name))?;
                let b = file.dequantize(&format!("{}.lora_b", layer.name))?;
                Ok((a, layer.rows.restore(b, layer.r)))
            };
            match read() {
                Err(error) => outcome = Err(error),
                Ok((a, b)) => {
                    let device = lora.lora_a.val().device();
                    let matrix = |values: Vec<f32>, shape: [usize; 2]| {
                        Tensor::<2>::from_data(TensorData::new(values, shape), &device)
                    };
                    lora.lora_a = Param::from_tensor(matrix(a, [layer.r, layer.d_in]));
                    lora.lora_b = Param::from_tensor(matrix(b, [layer.d_out, layer.r]));
                    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
                    let scaling = if alpha == 0.0 {
                        1.0
                    } else {
                        alpha / layer.r as f64
                    };
                    lora.scaling = scaling;
                }
            }
        }
    });
    outcome
}
