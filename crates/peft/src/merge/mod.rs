//! Adapters into the base weights, and out of them again.

mod logits;
mod report;

use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::{DType, Tensor};
use flametune_quant::{BaseLinear, DenseLinear, QuantLinear};

pub use self::logits::merge_and_unload_measured;
pub use self::report::{MergeOptions, MergeReport, MergedModule};

use crate::base::{self, cast};
use crate::error::{Error, Result};
use crate::inject::take_out;
use crate::slots::{
    AdapterEmbedding, AdapterNorm, BaseRef, DeltaLinear, LinearSlot, NamedAdapter, SlotModule,
    Slots, freeze,
};

/// Adds adapters to the base weights; what they add is summed, as in a pass with all of them.
///
/// The weights keep the dtype of the base, and the old ones are kept for [`unmerge`].
/// Until then a pass without adapters computes the merged model.
/// Merged weights of a quantized base are dense, or quantized again where `options` say so.
///
/// # Errors
/// [`Error::UnknownAdapter`]; [`Error::Merged`] when something is merged already;
/// [`Error::Unmergeable`] where an adapter has no equal change of the weights, or the weight belongs
/// to another module; [`Error::MergeError`] above the limit of `options`. The model is then as it
/// was.
///
/// # Source
/// - reference: peft `tuners/lora/layer.py::Linear.merge`; unlike it, DoRA and others are measured
///   against the unmerged base when several adapters are merged at once
pub fn merge<M: Slots>(
    model: &mut M,
    names: &[&str],
    options: &MergeOptions,
) -> Result<MergeReport> {
    merge_layers(model, names, options, false)
}

/// [`merge`]; with `dense` every other quantized layer becomes dense too, unless `options` keep the
/// quantization.
fn merge_layers<M: Slots>(
    model: &mut M,
    names: &[&str],
    options: &MergeOptions,
    dense: bool,
) -> Result<MergeReport> {
    for name in names {
        model.adapters().config(name)?;
    }
    if let Some(name) = model.adapters().merged().first() {
        return Err(Error::Merged { name: name.clone() });
    }
    let mut merging = Merging {
        names,
        options,
        dense: dense && !options.requantize,
        report: MergeReport::default(),
    };
    let mut outcome = Ok(());
    model.visit_slots(&mut |slot| {
        if outcome.is_err() {
            return;
        }
        outcome = match slot.module {
            SlotModule::Linear(linear) => merging.linear(slot.path, linear),
            SlotModule::Embedding(table) => merging.embedding(slot.path, table),
            SlotModule::Norm(norm) => merging.norm(slot.path, norm),
            SlotModule::Vector(_) => Ok(()),
            SlotModule::Prompt(prompt) => merging.unmergeable(slot.path, prompt.adapters),
            SlotModule::Sublayer(sublayer) => merging.unmergeable(slot.path, sublayer.adapters),
        };
    });
    let report = merging.report;
    if let Err(error) = outcome {
        restore(model);
        return Err(error);
    }
    let names = names.iter().map(|&name| name.to_owned()).collect();
    model.adapters_mut().set_merged(names);
    Ok(report)
}

/// Takes merged adapters out of the base weights: the old weights come back, bit for bit.
pub fn unmerge<M: Slots>(model: &mut M) {
    restore(model);
    model.adapters_mut().set_merged(Vec::new());
}

/// Merges adapters for good: the model has no adapters afterwards, and the old weights are gone.
///
/// A quantized base is dense afterwards in all its layers, or, with `requantize`, quantized in all of
/// them as it was.
///
/// # Errors
/// Those of [`merge`]; the model is then as it was.
pub fn merge_and_unload<M: Slots>(
    model: &mut M,
    names: &[&str],
    options: &MergeOptions,
) -> Result<MergeReport> {
    let report = merge_layers(model, names, options, true)?;
    unload(model)?;
    Ok(report)
}

/// Drops all adapters, and the weights from before they were merged.
fn unload<M: Slots>(model: &mut M) -> Result<()> {
    model.adapters_mut().set_merged(Vec::new());
    let all: Vec<String> = model.adapters().names().map(str::to_owned).collect();
    for name in all {
        model.adapters_mut().remove(&name)?;
        take_out(model, &name);
    }
    model.visit_slots(&mut |slot| match slot.module {
        SlotModule::Linear(linear) => {
            if let Some(unmerged) = linear.unmerged {
                *unmerged = None;
            }
        }
        SlotModule::Embedding(table) => table.unmerged = None,
        SlotModule::Norm(norm) => norm.unmerged = None,
        SlotModule::Vector(_) | SlotModule::Prompt(_) | SlotModule::Sublayer(_) => {}
    });
    Ok(())
}

fn restore<M: Slots>(model: &mut M) {
    model.visit_slots(&mut |slot| match slot.module {
        SlotModule::Linear(LinearSlot {
            base: BaseRef::Own(base),
            adapters,
            unmerged: Some(unmerged),
        }) => {
            if let Some(old) = unmerged.take() {
                *base = old;
                adapters
                    .iter_mut()
                    .for_each(|part| part.method.refresh(base));
            }
        }
        SlotModule::Linear(_)
        | SlotModule::Vector(_)
        | SlotModule::Prompt(_)
        | SlotModule::Sublayer(_) => {}
        SlotModule::Embedding(table) => {
            if let Some(old) = table.unmerged.take() {
                table.weight = frozen(old.clone());
                table
                    .adapters
                    .iter_mut()
                    .for_each(|part| part.method.refresh(&old));
            }
        }
        SlotModule::Norm(norm) => {
            if let Some((weight, bias)) = norm.unmerged.take() {
                norm.weight = frozen(weight);
                norm.bias = bias.map(frozen);
            }
        }
    });
}

fn frozen<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    let mut param = Param::from_tensor(tensor.detach());
    freeze(&mut param);
    param
}

struct Merging<'a> {
    names: &'a [&'a str],
    options: &'a MergeOptions,
    /// Whether layers that nothing is merged into become dense.
    dense: bool,
    report: MergeReport,
}

impl Merging<'_> {
    fn linear(&mut self, path: &str, slot: LinearSlot<'_>) -> Result<()> {
        let chosen = |name: &String| self.names.contains(&name.as_str());
        let base = slot.base.get();
        let (mut weight, mut bias) = (None, None);
        for part in slot.adapters.iter().filter(|part| chosen(&part.name)) {
            let unmergeable = |reason| Error::Unmergeable {
                name: part.name.clone(),
                module: path.to_owned(),
                reason,
            };
            if matches!(slot.base, BaseRef::Tied(_)) {
                return Err(unmergeable("its weight is that of the embedding"));
            }
            let delta = part.method.delta(base).map_err(unmergeable)?;
            weight = sum(weight, delta.weight.map(to_f32));
            bias = sum(bias, delta.bias.map(to_f32));
        }
        let untouched = weight.is_none() && bias.is_none();
        if untouched && !(self.dense && matches!(base, BaseLinear::Quant(_))) {
            return Ok(());
        }
        let merged = self.merged_linear(path, base, DeltaLinear { weight, bias })?;
        if let (BaseRef::Own(base), Some(unmerged)) = (slot.base, slot.unmerged) {
            *unmerged = Some(std::mem::replace(base, merged));
            slot.adapters
                .iter_mut()
                .for_each(|part| part.method.refresh(base));
        }
        Ok(())
    }

    fn merged_linear(
        &mut self,
        path: &str,
        base: &BaseLinear,
        delta: DeltaLinear,
    ) -> Result<BaseLinear> {
        let bias = match (base::bias(base), delta.bias) {
            (Some(bias), Some(delta)) => {
                let dtype = bias.dtype();
                Some(cast(to_f32(bias) + delta, dtype))
            }
            (bias, _) => bias,
        };
        let old = to_f32(base::dense_weight(base));
        let exact = match delta.weight {
            Some(delta) => old.clone() + delta.detach(),
            None => old.clone(),
        };
        let merged = match base {
            BaseLinear::Quant(quant) if self.options.requantize => {
                let dense = DenseLinear {
                    weight: Param::from_tensor(exact.clone()),
                    bias: bias.map(frozen),
                    fan_in_fan_out: quant.fan_in_fan_out,
                    precision: quant.precision,
                };
                BaseLinear::Quant(QuantLinear::quantize(&dense, quant.config())?)
            }
            _ => base::with_weight(base, exact.clone(), bias),
        };
        let stored = to_f32(base::dense_weight(&merged));
        self.measure(path, old, exact, stored)?;
        Ok(merged)
    }

    fn embedding(&mut self, path: &str, table: &mut AdapterEmbedding) -> Result<()> {
        let weight = table.weight.val();
        let chosen = table
            .adapters
            .iter()
            .filter(|part| self.names.contains(&part.name.as_str()));
        let delta = chosen.fold(None, |delta, part| {
            sum(delta, Some(to_f32(part.method.delta(&weight))))
        });
        let Some(delta) = delta else {
            return Ok(());
        };
        let old = to_f32(weight.clone());
        let exact = old.clone() + delta.detach();
        let merged = cast(exact.clone(), weight.dtype());
        self.measure(path, old, exact, to_f32(merged.clone()))?;
        table.weight = frozen(merged.clone());
        table.unmerged = Some(weight);
        table
            .adapters
            .iter_mut()
            .for_each(|part| part.method.refresh(&merged));
        Ok(())
    }

    /// Refuses adapters on a place that has no weight of its own.
    fn unmergeable<M>(&self, path: &str, parts: &[NamedAdapter<M>]) -> Result<()>
    where
        M: Module + ModuleDisplay,
    {
        let chosen = |part: &&NamedAdapter<M>| self.names.contains(&part.name.as_str());
        match parts.iter().find(chosen) {
            None => Ok(()),
            Some(part) => Err(Error::Unmergeable {
                name: part.name.clone(),
                module: path.to_owned(),
                reason: "what it adds is no change of a weight",
            }),
        }
    }

    fn norm(&mut self, path: &str, norm: &mut AdapterNorm) -> Result<()> {
        let names: Vec<&str> = self
            .names
            .iter()
            .copied()
            .filter(|&name| norm.adapters.iter().any(|part| part.name == name))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let old = norm.weights();
        let (weight, bias) = norm.adapted(&names);
        let as_matrix = |vector: &Tensor<1>| to_f32(vector.clone()).unsqueeze::<2>();
        let copy = as_matrix(&weight);
        self.measure(path, as_matrix(&old.0), copy.clone(), copy)?;
        norm.weight = frozen(weight);
        norm.bias = bias.map(frozen);
        norm.unmerged = Some(old);
        Ok(())
    }

    /// Notes change and error of one weight, and refuses an error above the limit.
    fn measure(
        &mut self,
        path: &str,
        old: Tensor<2>,
        exact: Tensor<2>,
        stored: Tensor<2>,
    ) -> Result<()> {
        let change = norm(exact.clone() - old.clone()) / norm(old).max(f64::MIN_POSITIVE);
        let error = norm(stored - exact.clone()) / norm(exact).max(f64::MIN_POSITIVE);
        if let Some(limit) = self.options.max_error.filter(|&limit| error > limit) {
            return Err(Error::MergeError {
                module: path.to_owned(),
                error,
                limit,
            });
        }
        self.report.modules.push(MergedModule {
            path: path.to_owned(),
            change,
            error,
        });
        Ok(())
    }
}

fn to_f32<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    cast(tensor.detach(), DType::F32)
}

fn sum<const D: usize>(a: Option<Tensor<D>>, b: Option<Tensor<D>>) -> Option<Tensor<D>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

/// The root of the sum of squares.
fn norm(matrix: Tensor<2>) -> f64 {
    let data = matrix.into_data();
    data.iter::<f64>().map(|x| x * x).sum::<f64>().sqrt()
}
