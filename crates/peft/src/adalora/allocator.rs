//! Which ranks of which modules are kept.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

use super::build::SINGULAR_VALUES;
use super::{AdaLoraConfig, AdaLoraLinear, BudgetSchedule};
use crate::config::PeftConfig;
use crate::error::{Error, Result};
use crate::slots::{LinearMethod, SlotModule, Slots};

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
