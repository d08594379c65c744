//! Which ranks of which modules are kept.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

use super::build::SINGULAR_VALUES;
use super::{AdaLoraConfig, AdaLoraLinear, BudgetSchedule};
use crate::config::PeftConfig;
use crate::error::{Error, Result};
use crate::slots::{LinearMethod, SlotModule, Slots};

/// The factors of a module, in the order of their scores.
const FACTORS: [&str; 3] = ["lora_A", "lora_E", "lora_B"];

/// What follows the name of a factor in the names of its scores.
const SENSITIVITY: &str = ".sensitivity";
const UNCERTAINTY: &str = ".uncertainty";

/// Gives the ranks of an `AdaLoRA` adapter to the modules whose singular values matter most.
///
/// A step of training calls [`note_gradients`](Self::note_gradients) after the backward pass and
/// [`update_and_allocate`](Self::update_and_allocate) after the optimizer's step.
///
/// For a parameter `w` with gradient `g` the sensitivity is `I = |w·g|`, smoothed to
/// `Ī ← β₁·Ī + (1 − β₁)·I`, with the uncertainty `Ū ← β₂·Ū + (1 − β₂)·|I − Ī|`, and its score is
/// `Ī·Ū`.
/// The score of a rank is that of its singular value plus the means of those of its row of `A` and
/// its column of `B`.
/// Singular values beyond the budget are set to zero; they may grow again until the last
/// allocation.
///
/// A saved adapter holds the ranks that are kept; what a run needs beside it to go on is in
/// [`state`](Self::state).
///
/// # Source
/// - Zhang et al. 2023, `AdaLoRA`, arXiv:2303.10512, §3.2 eq. (6) to (11), algorithm 1
/// - reference: peft `tuners/adalora/layer.py::RankAllocator`; goldens
///   `fixtures/peft/adalora_schedule.json`, `fixtures/peft/adalora_training.safetensors`
#[derive(Debug)]
pub struct AdaLoraAllocator {
    name: String,
    config: AdaLoraConfig,
    schedule: BudgetSchedule,
    modules: BTreeMap<String, Module>,
}

/// The state of one module.
#[derive(Debug, Default)]
struct Module {
    /// Of `A`, `λ` and `B`.
    scores: [Score; 3],
}

/// What is known of one parameter.
#[derive(Debug, Default)]
struct Score {
    gradient: Option<Tensor<2>>,
    /// Smoothed sensitivity and uncertainty.
    smoothed: Option<(Tensor<2>, Tensor<2>)>,
}

impl Score {
    fn update(&mut self, weight: Tensor<2>, beta1: f64, beta2: f64) {
        let Some(gradient) = self.gradient.take() else {
            return;
        };
        let now = (weight * gradient).abs();
        let (sensitivity, uncertainty) = self
            .smoothed
            .take()
            .unwrap_or_else(|| (now.zeros_like(), now.zeros_like()));
        let sensitivity = sensitivity * beta1 + now.clone() * (1.0 - beta1);
        let change = (now - sensitivity.clone()).abs();
        let uncertainty = uncertainty * beta2 + change * (1.0 - beta2);
        self.smoothed = Some((sensitivity, uncertainty));
    }

    /// The scores, with the mean over one dimension if asked.
    fn values(&self, mean_over: Option<usize>) -> Option<Vec<f32>> {
        let (sensitivity, uncertainty) = self.smoothed.clone()?;
        let score = sensitivity * uncertainty;
        let score = match mean_over {
            Some(dim) => score.mean_dim(dim),
            None => score,
        };
        Some(score.into_data().iter::<f32>().collect())
    }
}

impl Module {
    fn rank_scores(&self) -> Option<Vec<f32>> {
        let a = self.scores[0].values(Some(1))?;
        let e = self.scores[1].values(None)?;
        let b = self.scores[2].values(Some(0))?;
        Some(
            e.iter()
                .zip(a.iter().zip(&b))
                .map(|(e, (a, b))| e + (a + b))
                .collect(),
        )
    }
}

impl AdaLoraAllocator {
    /// The allocator of an adapter.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`]; [`Error::InvalidConfig`] when it is no `AdaLoRA` adapter.
    pub fn new<M: Slots>(model: &mut M, name: &str) -> Result<Self> {
        let config = model.adapters().config(name)?.as_ref().clone();
        let PeftConfig::AdaLora(config) = config else {
            return Err(Error::InvalidConfig {
                field: "peft_type",
                reason: format!("must be ADALORA, got {}", config.peft_type()),
            });
        };
        let mut modules = BTreeMap::new();
        each(model, name, |path, _| {
            modules.insert(path.to_owned(), Module::default());
        });
        Ok(Self {
            name: name.to_owned(),
            schedule: BudgetSchedule::new(&config, modules.len()),
            config,
            modules,
        })
    }

    /// The schedule of the budget.
    pub fn schedule(&self) -> &BudgetSchedule {
        &self.schedule
    }

    /// Keeps the gradients of a step until [`update_and_allocate`](Self::update_and_allocate) has
    /// seen what the optimizer made of the parameters.
    pub fn note_gradients<M: Slots>(
        &mut self,
        model: &mut M,
        mut gradient: impl FnMut(&Param<Tensor<2>>) -> Option<Tensor<2>>,
    ) {
        each(model, &self.name, |path, part| {
            if let Some(module) = self.modules.get_mut(path) {
                let params = [&part.lora_a, &part.lora_e, &part.lora_b];
                for (score, param) in module.scores.iter_mut().zip(params) {
                    score.gradient = gradient(param).map(Tensor::inner);
                }
            }
        });
    }

    /// Takes in the gradients of step `step`, counted from zero, and gives the ranks anew where the
    /// schedule says so; returns the budget.
    ///
    /// Until the last allocation the configuration's `rank_pattern` is what the file will hold.
    pub fn update_and_allocate<M: Slots>(&mut self, model: &mut M, step: usize) -> usize {
        let budget = self.schedule.budget(step);
        if step > self.schedule.end() {
            // The pattern is final, and the optimizer may have moved what is outside of it.
            each(model, &self.name, |_, part| {
                if let Some(kept) = part.kept.clone() {
                    mask(part, kept);
                }
            });
            return budget;
        }
        if step < self.schedule.end() {
            self.update(model);
        }
        if step == self.schedule.end() || self.schedule.allocates(step) {
            self.allocate(model, budget);
        }
        budget
    }

    /// What a run needs to go on beside the adapter's files: all ranks of the factors, and the
    /// smoothed scores of every number in them.
    ///
    /// Of factor `lora_A` of module `PATH` it is `PATH.lora_A`, and after the first update
    /// `PATH.lora_A.sensitivity` and `PATH.lora_A.uncertainty`.
    pub fn state<M: Slots>(&self, model: &M) -> BTreeMap<String, TensorData> {
        let mut state = BTreeMap::new();
        each(&mut model.clone(), &self.name, |path, part| {
            let Some(module) = self.modules.get(path) else {
                return;
            };
            let params = [&part.lora_a, &part.lora_e, &part.lora_b];
            for ((factor, score), param) in FACTORS.iter().zip(&module.scores).zip(params) {
                let name = format!("{path}.{factor}");
                if let Some((sensitivity, uncertainty)) = score.smoothed.clone() {
                    state.insert(format!("{name}{SENSITIVITY}"), sensitivity.into_data());
                    state.insert(format!("{name}{UNCERTAINTY}"), uncertainty.into_data());
                }
                state.insert(name, param.val().into_data());
            }
        });
        state
    }

    /// Takes up what [`state`](Self::state) gave, with the adapter of the same step in the model;
    /// `file` is where it was read from.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::ShapeMismatch`] and [`Error::UnexpectedTensors`] when it
    /// is not that of this adapter; the model may have some of it then.
    pub fn restore<M: Slots>(
        &mut self,
        model: &mut M,
        state: BTreeMap<String, TensorData>,
        file: &Path,
    ) -> Result<()> {
        let mut state = Restored { state, file };
        let pattern = self.config.rank_pattern.clone().unwrap_or_default();
        let mut outcome = Ok(());
        each(model, &self.name, |path, part| {
            if let (Some(module), Ok(())) = (self.modules.get_mut(path), &outcome) {
                outcome = state.module(path, part, module, &self.config);
                part.kept = pattern.get(&format!("{path}{SINGULAR_VALUES}")).cloned();
            }
        });
        outcome?;
        match state.state.is_empty() {
            true => Ok(()),
            false => Err(Error::UnexpectedTensors {
                names: state.state.into_keys().collect(),
                file: file.to_owned(),
            }),
        }
    }

    fn update<M: Slots>(&mut self, model: &mut M) {
        let (beta1, beta2) = (self.config.beta1, self.config.beta2);
        each(model, &self.name, |path, part| {
            if let Some(module) = self.modules.get_mut(path) {
                let params = [&part.lora_a, &part.lora_e, &part.lora_b];
                for (score, param) in module.scores.iter_mut().zip(params) {
                    if score.gradient.is_some() {
                        score.update(param.val().inner(), beta1, beta2);
                    }
                }
            }
        });
    }

    fn allocate<M: Slots>(&mut self, model: &mut M, budget: usize) {
        let scores: BTreeMap<&str, Vec<f32>> = self
            .modules
            .iter()
            .filter_map(|(path, module)| Some((path.as_str(), module.rank_scores()?)))
            .collect();
        let mut all: Vec<f32> = scores.values().flatten().copied().collect();
        all.sort_by(f32::total_cmp);
        // The ranks up to this score are given away.
        let threshold = self
            .schedule
            .initial()
            .saturating_sub(budget)
            .checked_sub(1)
            .and_then(|last| all.get(last).copied());
        let Some(threshold) = threshold else {
            return;
        };
        let mut pattern = BTreeMap::new();
        each(model, &self.name, |path, part| {
            if let Some(scores) = scores.get(path) {
                let kept: Vec<bool> = scores.iter().map(|&score| score > threshold).collect();
                pattern.insert(format!("{path}{SINGULAR_VALUES}"), kept.clone());
                mask(part, kept);
            }
        });
        self.config.rank_pattern = Some(pattern);
        let config = PeftConfig::AdaLora(self.config.clone());
        model.adapters_mut().insert(&self.name, config);
    }
}

/// The state that a run goes on from.
struct Restored<'a> {
    state: BTreeMap<String, TensorData>,
    file: &'a Path,
}

impl Restored<'_> {
    fn module(
        &mut self,
        path: &str,
        part: &mut AdaLoraLinear,
        module: &mut Module,
        config: &AdaLoraConfig,
    ) -> Result<()> {
        let (r, d_in, d_out) = (config.init_r, part.lora_a.dims()[1], part.lora_b.dims()[0]);
        let params = [
            (&mut part.lora_a, [r, d_in]),
            (&mut part.lora_e, [r, 1]),
            (&mut part.lora_b, [d_out, r]),
        ];
        let factors = FACTORS.iter().zip(&mut module.scores);
        for ((factor, score), (param, shape)) in factors.zip(params) {
            let name = format!("{path}.{factor}");
            let place = param.val().inner();
            let tensor =
                |data: TensorData| Tensor::<2>::from_data(data, (&place.device(), place.dtype()));
            score.smoothed = match self.state.contains_key(&format!("{name}{SENSITIVITY}")) {
                true => Some((
                    tensor(self.take(format!("{name}{SENSITIVITY}"), shape)?),
                    tensor(self.take(format!("{name}{UNCERTAINTY}"), shape)?),
                )),
                false => None,
            };
            let data = self.take(name, shape)?;
            *param = param.clone().map(|old| {
                let place = (&old.device(), old.dtype());
                Tensor::from_data(data, place).set_require_grad(old.is_require_grad())
            });
        }
        part.scaling = config.scaling(r);
        Ok(())
    }

    fn take(&mut self, name: String, shape: [usize; 2]) -> Result<TensorData> {
        match self.state.remove(&name) {
            None => Err(Error::MissingTensor {
                name,
                file: self.file.to_owned(),
            }),
            Some(data) if data.shape().to_vec() != shape => Err(Error::ShapeMismatch {
                tensor: name,
                file: self.file.to_owned(),
                expected: shape.to_vec(),
                got: data.shape().to_vec(),
            }),
            Some(data) => Ok(data),
        }
    }
}

/// Sets the singular values that are not kept to zero.
fn mask(part: &mut AdaLoraLinear, kept: Vec<bool>) {
    let gains: Vec<f32> = kept.iter().map(|&kept| f32::from(u8::from(kept))).collect();
    part.lora_e = part.lora_e.clone().map(|values| {
        let place = (&values.device(), values.dtype());
        let gains = Tensor::<2>::from_data(TensorData::new(gains, [kept.len(), 1]), place);
        let tracked = values.is_require_grad();
        (values.detach() * gains).detach().set_require_grad(tracked)
    });
    part.kept = Some(kept);
}

fn each<M: Slots>(model: &mut M, name: &str, mut visit: impl FnMut(&str, &mut AdaLoraLinear)) {
    model.visit_slots(&mut |slot| {
        let SlotModule::Linear(linear) = slot.module else {
            return;
        };
        for part in linear.adapters.iter_mut().filter(|part| part.name == name) {
            if let LinearMethod::AdaLora(part) = &mut part.method {
                visit(slot.path, part);
            }
        }
    });
}
