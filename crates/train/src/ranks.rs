//! Ranks that are handed out while a model learns.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use flametune_peft::{AdaLoraAllocator, PeftConfig, Slots, orthogonal_penalty};

use crate::error::{Error, Result};
use crate::optim::GradientSum;

/// What a step does to an adapter beside what the objective and the optimizer do.
pub(crate) trait RankTraining<M>: Send {
    /// Adds the gradient of the term of the loss that depends on the parameters alone; returns the
    /// term, and what it is a multiple of.
    fn penalty(&self, model: &mut M, gradients: &mut GradientSum) -> (f64, f64);

    /// Hands the ranks out after the optimizer's step, counted from zero, by the gradients that it
    /// followed, if it took one; returns how many there are.
    fn allocate(&mut self, model: &mut M, gradients: Option<&GradientSum>, step: usize) -> usize;

    /// What a checkpoint holds of it.
    fn state(&self, model: &M) -> BTreeMap<String, TensorData>;

    /// Takes up a state that was read from `file`.
    fn restore(
        &mut self,
        model: &mut M,
        state: BTreeMap<String, TensorData>,
        file: &Path,
    ) -> Result<()>;
}

/// The ranks of an `AdaLoRA` adapter.
#[derive(Debug)]
pub(crate) struct AdaLoraRanks {
    allocator: AdaLoraAllocator,
    name: String,
    /// The weight of the penalty in the loss.
    weight: f64,
}

impl AdaLoraRanks {
    /// Of an adapter in a run of `max_steps`; nothing when it is of another method.
    pub(crate) fn new<M: Slots>(
        model: &mut M,
        name: &str,
        max_steps: usize,
    ) -> Result<Option<Self>> {
        let (weight, total_step) = match model.adapters().config(name)?.as_ref() {
            PeftConfig::AdaLora(config) => (config.orth_reg_weight, config.total_step),
            _ => return Ok(None),
        };
        if total_step != Some(max_steps) {
            let got = total_step.map_or("none".to_owned(), |steps| steps.to_string());
            return Err(Error::InvalidConfig {
                field: "total_step",
                reason: format!("must be the {max_steps} steps of the run, got {got}"),
            });
        }
        Ok(Some(Self {
            allocator: AdaLoraAllocator::new(model, name)?,
            name: name.to_owned(),
            weight,
        }))
    }
}

impl<M: Slots + Module> RankTraining<M> for AdaLoraRanks {
    fn penalty(&self, model: &mut M, gradients: &mut GradientSum) -> (f64, f64) {
        let Some(penalty) = orthogonal_penalty(model, &self.name) else {
            return (0.0, 0.0);
        };
        let value = f64::from(penalty.clone().inner().into_scalar::<f32>());
        if self.weight > 0.0 {
            gradients.add(model, &mut (penalty * self.weight).backward());
        }
        (self.weight * value, value)
    }

    fn allocate(&mut self, model: &mut M, gradients: Option<&GradientSum>, step: usize) -> usize {
        if let Some(gradients) = gradients {
            self.allocator.note_gradients(model, |param| {
                let gradient = gradients.get(param.id)?;
                Some(like(param, gradient))
            });
        }
        self.allocator.update_and_allocate(model, step)
    }

    fn state(&self, model: &M) -> BTreeMap<String, TensorData> {
        self.allocator.state(model)
    }

    fn restore(
        &mut self,
        model: &mut M,
        state: BTreeMap<String, TensorData>,
        file: &Path,
    ) -> Result<()> {
        Ok(self.allocator.restore(model, state, file)?)
    }
}

/// A gradient as a tensor beside its parameter.
fn like(param: &Param<Tensor<2>>, gradient: &[f32]) -> Tensor<2> {
    let value = param.val().inner();
    let data = TensorData::new(gradient.to_vec(), value.dims());
    Tensor::from_data(data, (&value.device(), value.dtype()))
}
