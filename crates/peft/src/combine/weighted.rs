//! A new adapter as a weighted combination of others.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use faer::Mat;

use super::ia3;
use super::options::{CombinationType, CombineOptions};
use super::prune::combine;
use crate::config::PeftConfig;
use crate::error::{Error, Result};
use crate::inject::{each_named, inject, remove};
use crate::lora::LoraConfig;
use crate::random::{Stream, text_key};
use crate::slots::{EmbeddingMethod, LinearMethod, PartRole, SlotMethod, SlotModule, Slots};
use crate::svd::{best_factors, to_device, to_host};
use crate::targets::TargetModules;

/// Adds the adapter `name`, a weighted combination of LoRA adapters or of (IA)³ adapters, frozen.
///
/// Of (IA)³ adapters [`CombinationType::Linear`] sums the gains as PEFT does, and
/// [`CombinationType::Cat`] sums how they differ from one, so that a weight of −1 negates an
/// adapter. Other ways are for LoRA, to which the rest applies.
///
/// Its scaling is 1: the scalings of the others are in its factors. It sits on every module that one
/// of them adapts. A weight of −1 with [`CombinationType::Cat`] negates an adapter, and weights
/// `(1, 1, −1)` on `(c, b, a)` make the analogy `c + b − a`, exactly.
///
/// # Errors
/// [`Error::UnknownAdapter`], [`Error::InvalidName`], [`Error::NameTaken`];
/// [`Error::Incompatible`] for adapters that are no plain LoRA (DoRA, a bias on `B`, copies of
/// modules or biases), of different ranks where factors are summed, or for an empty list;
/// [`Error::InvalidConfig`] for weights that are not finite, a missing density or a rank of zero.
/// The model is then as it was.
///
/// # Source
/// - reference: peft `tuners/lora/model.py::LoraModel.add_weighted_adapter`; golden
///   `fixtures/peft/arithmetic`
/// - differs: modules are listed by their full names, and `use_rslora` is off in the result, which
///   in PEFT would scale it by `√r`
pub fn add_weighted_adapter<M: Slots>(
    model: &mut M,
    adapters: &[(&str, f64)],
    name: &str,
    options: &CombineOptions,
) -> Result<()> {
    if let Some((first, _)) = adapters.first()
        && let PeftConfig::Ia3(_) = model.adapters().config(first)?.as_ref()
    {
        return ia3::add_weighted(model, adapters, name, options);
    }
    let plan = Plan::new(model, adapters, options)?;
    let config = plan.config(model, adapters)?;
    inject(model, name, &PeftConfig::Lora(config), 0)?;
    let mut outcome = Ok(());
    model.visit_slots(&mut |slot| {
        let Some(parts) = plan.modules.get(slot.path).filter(|_| outcome.is_ok()) else {
            return;
        };
        outcome = plan
            .factors(slot.path, parts)
            .map(|(a, b)| match slot.module {
                SlotModule::Linear(linear) => {
                    for part in linear.adapters.iter_mut().filter(|part| part.name == name) {
                        if let LinearMethod::Lora(lora) = &mut part.method {
                            put(&mut lora.lora_a, &a);
                            put(&mut lora.lora_b, &b);
                        }
                    }
                }
                SlotModule::Embedding(table) => {
                    for part in table.adapters.iter_mut().filter(|part| part.name == name) {
                        if let EmbeddingMethod::Lora(lora) = &mut part.method {
                            put(&mut lora.lora_embedding_a, &a);
                            put(&mut lora.lora_embedding_b, &b);
                        }
                    }
                }
                _ => {}
            });
    });
    if let Err(error) = outcome {
        remove(model, name)?;
        return Err(error);
    }
    each_named(model, name, false);
    Ok(())
}

fn put(param: &mut Param<Tensor<2>>, values: &Mat<f64>) {
    let device: Device = param.device();
    *param = Param::from_tensor(to_device(values, (&device, DType::F32)));
}

/// The factors of one adapter in one module.
struct Part {
    a: Mat<f64>,
    b: Mat<f64>,
    scaling: f64,
    weight: f64,
}

struct Plan {
    kind: CombinationType,
    options: CombineOptions,
    density: f64,
    rank: usize,
    modules: BTreeMap<String, Vec<Part>>,
}

impl Plan {
    fn new<M: Slots>(
        model: &M,
        adapters: &[(&str, f64)],
        options: &CombineOptions,
    ) -> Result<Self> {
        // With a single adapter there is nothing to elect or to drop against.
        let kind = match adapters {
            [] => return Err(incompatible(options, "needs at least one adapter")),
            [_] => CombinationType::Linear,
            _ => options.combination_type,
        };
        let density = options.density()?;
        if let Some((name, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
            return Err(Error::InvalidConfig {
                field: "weights",
                reason: format!("must be finite, got {weight} for `{name}`"),
            });
        }
        if options.svd_rank == Some(0) {
            return Err(Error::InvalidConfig {
                field: "svd_rank",
                reason: "must be at least 1, got 0".to_owned(),
            });
        }
        for (name, _) in adapters {
            plain_lora(model, name, options)?;
        }
        let modules = collect(model, adapters, options)?;
        let mut plan = Self {
            kind,
            options: *options,
            density,
            rank: 0,
            modules,
        };
        plan.rank = plan.result_rank()?;
        Ok(plan)
    }

    fn result_rank(&self) -> Result<usize> {
        let mut rank = 0;
        for (path, parts) in &self.modules {
            let ranks: Vec<usize> = parts.iter().map(|part| part.a.nrows()).collect();
            let largest = ranks.iter().copied().max().unwrap_or(0);
            let here = if self.kind == CombinationType::Cat {
                ranks.iter().sum()
            } else if self.kind.is_svd() {
                self.options.svd_rank.unwrap_or(largest)
            } else if ranks.iter().all(|&r| r == largest) {
                largest
            } else {
                let reason = format!("needs equal ranks, `{path}` has {ranks:?}");
                return Err(incompatible(&self.options, reason));
            };
            rank = rank.max(here);
        }
        Ok(rank)
    }

    fn config<M: Slots>(&self, model: &M, adapters: &[(&str, f64)]) -> Result<LoraConfig> {
        let mut common = None;
        for (name, _) in adapters {
            let config = model.adapters().config(name)?;
            common = common.or_else(|| Some(config.common().clone()));
        }
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        Ok(LoraConfig {
            common: common.unwrap_or_default(),
            r: self.rank,
            lora_alpha: self.rank as f64,
            target_modules: Some(TargetModules::list(self.modules.keys().cloned())),
            ..LoraConfig::default()
        })
    }

    /// `A` and `B` of the result in one module, padded with zeros to its rank.
    fn factors(&self, path: &str, parts: &[Part]) -> Result<(Mat<f64>, Mat<f64>)> {
        let (a, b) = if self.kind == CombinationType::Cat {
            side_by_side(parts)
        } else if self.kind.is_svd() {
            best_factors(&self.update(path, parts), self.rank)?
        } else {
            self.summed(path, parts)
        };
        Ok((
            padded(&a, self.rank, a.ncols()),
            padded(&b, b.nrows(), self.rank),
        ))
    }

    fn combined(
        &self,
        key: [u64; 2],
        shape: (usize, usize),
        tasks: Vec<Vec<f64>>,
        weights: &[f64],
    ) -> Mat<f64> {
        let seed = Stream::new(&[self.options.seed, key[0], key[1]]);
        let majority = self.options.majority_sign_method;
        let values = combine(self.kind, tasks, weights, self.density, majority, seed);
        Mat::from_fn(shape.0, shape.1, |i, j| values[i * shape.1 + j])
    }

    /// The combined update `ΔW`, each task with its scaling.
    fn update(&self, path: &str, parts: &[Part]) -> Mat<f64> {
        let products: Vec<Mat<f64>> = parts
            .iter()
            .map(|part| faer::Scale(part.scaling) * (&part.b * &part.a))
            .collect();
        let weights: Vec<f64> = parts.iter().map(|part| part.weight).collect();
        let shape = products.first().map_or((0, 0), |m| (m.nrows(), m.ncols()));
        let tasks = products.iter().map(flat).collect();
        self.combined([text_key(path), 2], shape, tasks, &weights)
    }

    /// The combined factors, each with the root of weight and scaling, and the sign on `A`.
    fn summed(&self, path: &str, parts: &[Part]) -> (Mat<f64>, Mat<f64>) {
        let whole = |part: &Part| part.weight * part.scaling;
        let roots: Vec<f64> = parts.iter().map(|part| whole(part).abs().sqrt()).collect();
        let signed: Vec<f64> = parts
            .iter()
            .zip(&roots)
            .map(|(part, root)| if whole(part) < 0.0 { -root } else { *root })
            .collect();
        let side = |index, weights: &[f64], factor: fn(&Part) -> &Mat<f64>| {
            let shape = parts
                .first()
                .map(factor)
                .map_or((0, 0), |m| (m.nrows(), m.ncols()));
            let tasks = parts.iter().map(|part| flat(factor(part))).collect();
            self.combined([text_key(path), index], shape, tasks, weights)
        };
        let a = side(0, &signed, |part| &part.a);
        let b = side(1, &roots, |part| &part.b);
        (a, b)
    }
}

/// All factors side by side; weights and scalings go into `A`.
fn side_by_side(parts: &[Part]) -> (Mat<f64>, Mat<f64>) {
    let places: Vec<(&Part, usize)> = parts
        .iter()
        .flat_map(|part| (0..part.a.nrows()).map(move |k| (part, k)))
        .collect();
    let width = parts.first().map_or(0, |part| part.a.ncols());
    let height = parts.first().map_or(0, |part| part.b.nrows());
    let a = Mat::from_fn(places.len(), width, |i, j| {
        let (part, k) = places[i];
        part.a[(k, j)] * part.weight * part.scaling
    });
    let b = Mat::from_fn(height, places.len(), |i, j| {
        let (part, k) = places[j];
        part.b[(i, k)]
    });
    (a, b)
}

fn flat(matrix: &Mat<f64>) -> Vec<f64> {
    let rows = 0..matrix.nrows();
    rows.flat_map(|i| (0..matrix.ncols()).map(move |j| matrix[(i, j)]))
        .collect()
}

fn padded(matrix: &Mat<f64>, rows: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(rows, columns, |i, j| {
        if i < matrix.nrows() && j < matrix.ncols() {
            matrix[(i, j)]
        } else {
            0.0
        }
    })
}

fn incompatible(options: &CombineOptions, reason: impl Into<String>) -> Error {
    Error::Incompatible {
        combination_type: options.combination_type.name(),
        reason: reason.into(),
    }
}

/// Checks that an adapter is a LoRA whose factors say everything.
fn plain_lora<M: Slots>(model: &M, name: &str, options: &CombineOptions) -> Result<()> {
    let refused = |what: &str| Err(incompatible(options, format!("`{name}` has {what}")));
    match model.adapters().config(name)?.as_ref() {
        PeftConfig::Lora(config) if config.use_dora => refused("magnitudes (DoRA)"),
        PeftConfig::Lora(config) if config.lora_bias => refused("a bias on B"),
        PeftConfig::Lora(config) if config.init_lora_weights.takes_from_base() => {
            refused("a part of the base in its factors (PiSSA, OLoRA)")
        }
        PeftConfig::Lora(_) => Ok(()),
        #[allow(unreachable_patterns, reason = "other methods join the enum")]
        other => refused(&format!("peft_type {}", other.peft_type())),
    }
}

/// The factors of these adapters in every module that one of them adapts.
fn collect<M: Slots>(
    model: &M,
    adapters: &[(&str, f64)],
    options: &CombineOptions,
) -> Result<BTreeMap<String, Vec<Part>>> {
    let mut found: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    let mut copies = None;
    model.clone().visit_slots(&mut |slot| {
        for &(name, weight) in adapters {
            let mut add = |a: &Param<Tensor<2>>, b: &Param<Tensor<2>>, scaling| {
                found.entry(slot.path.to_owned()).or_default().push(Part {
                    a: to_host(a.val()),
                    b: to_host(b.val()),
                    scaling,
                    weight,
                });
            };
            let mut copied = false;
            match &slot.module {
                SlotModule::Linear(linear) => {
                    for part in linear.adapters.iter().filter(|part| part.name == name) {
                        match &part.method {
                            LinearMethod::Lora(lora) => {
                                add(&lora.lora_a, &lora.lora_b, lora.scaling);
                            }
                            other => copied |= other.info().role != PartRole::Adapter,
                        }
                    }
                }
                SlotModule::Embedding(table) => {
                    for part in table.adapters.iter().filter(|part| part.name == name) {
                        match &part.method {
                            EmbeddingMethod::Lora(lora) => {
                                add(&lora.lora_embedding_a, &lora.lora_embedding_b, lora.scaling)
                            }
                            other => copied |= other.info().role != PartRole::Adapter,
                        }
                    }
                }
                SlotModule::Norm(norm) => {
                    copied |= norm.adapters.iter().any(|part| part.name == name);
                }
                _ => {}
            }
            if copied && copies.is_none() {
                copies = Some(format!("`{name}` has a copy of `{}`", slot.path));
            }
        }
    });
    match copies {
        Some(reason) => Err(incompatible(options, reason)),
        None => Ok(found),
    }
}
