//! An adapter outside of a model, ready to be put into one.

use std::sync::Arc;

use burn::module::{Module, ModuleDisplay};

use crate::bottleneck::BottleneckAdapter;
use crate::config::PeftConfig;
use crate::error::{Error, Result};
use crate::inject::take_out;
use crate::prompt::PromptMethod;
use crate::report::report;
use crate::slots::{EmbeddingMethod, LinearMethod, NamedAdapter, NormMethod, SlotModule, Slots};

/// The parts of an adapter, as they lay in the slots of a model.
///
/// Tensors are shared with every copy and with the models that the parts are put into. So many
/// adapters can be in memory while a model holds only those in use, which keeps its passes fast.
///
/// # Examples
/// ```
/// use flametune_peft::{AdapterParts, Result, Slots, load_adapter};
///
/// /// Loads an adapter and leaves the model as it was.
/// fn load_beside<M: Slots>(model: &M, folder: &str) -> Result<AdapterParts> {
///     let mut copy = model.clone();
///     load_adapter(&mut copy, "summary", folder)?;
///     AdapterParts::take(&mut copy, "summary")
/// }
/// ```
#[derive(Debug, Clone)]
pub struct AdapterParts {
    name: String,
    config: Arc<PeftConfig>,
    bytes: usize,
    /// One entry for each slot of the model.
    slots: Vec<SlotParts>,
}

/// The parts in one slot.
#[derive(Debug, Clone)]
enum SlotParts {
    Linear(Vec<NamedAdapter<LinearMethod>>),
    Embedding(Vec<NamedAdapter<EmbeddingMethod>>),
    Norm(Vec<NamedAdapter<NormMethod>>),
    Prompt(Vec<NamedAdapter<PromptMethod>>),
    Sublayer(Vec<NamedAdapter<BottleneckAdapter>>),
    Vector,
}

impl AdapterParts {
    /// Takes an adapter out of a model.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`]; [`Error::Merged`] when it is merged into the base.
    pub fn take<M: Slots>(model: &mut M, name: &str) -> Result<Self> {
        model.adapters().config(name)?;
        if model
            .adapters()
            .merged()
            .iter()
            .any(|merged| merged == name)
        {
            return Err(Error::Merged {
                name: name.to_owned(),
            });
        }
        let rows = report(model).modules;
        let own = rows.iter().filter(|row| row.adapter == name);
        let bytes = own.map(|row| row.bytes).sum();
        let config = model.adapters_mut().remove(name)?;
        let mut slots = Vec::new();
        model.visit_slots(&mut |slot| {
            slots.push(match slot.module {
                SlotModule::Linear(linear) => SlotParts::Linear(drain(linear.adapters, name)),
                SlotModule::Embedding(table) => {
                    SlotParts::Embedding(drain(&mut table.adapters, name))
                }
                SlotModule::Norm(norm) => SlotParts::Norm(drain(&mut norm.adapters, name)),
                SlotModule::Prompt(prompt) => SlotParts::Prompt(drain(prompt.adapters, name)),
                SlotModule::Sublayer(sublayer) => {
                    SlotParts::Sublayer(drain(sublayer.adapters, name))
                }
                SlotModule::Vector(_) => SlotParts::Vector,
            });
        });
        Ok(Self {
            name: name.to_owned(),
            config,
            bytes,
            slots,
        })
    }

    /// Puts a copy into a model with the same slots as the one that it was taken from, under the
    /// same name.
    ///
    /// # Errors
    /// [`Error::NameTaken`]; [`Error::OtherSlots`] when the model has other slots.
    /// The model is then as it was.
    pub fn put<M: Slots>(&self, model: &mut M) -> Result<()> {
        model.adapters().check_new(&self.name)?;
        let (mut found, mut fits) = (0, true);
        model.visit_slots(&mut |slot| {
            let parts = self.slots.get(found);
            found += 1;
            match (slot.module, parts) {
                (SlotModule::Linear(linear), Some(SlotParts::Linear(parts))) => {
                    linear.adapters.extend_from_slice(parts);
                }
                (SlotModule::Embedding(table), Some(SlotParts::Embedding(parts))) => {
                    table.adapters.extend_from_slice(parts);
                }
                (SlotModule::Norm(norm), Some(SlotParts::Norm(parts))) => {
                    norm.adapters.extend_from_slice(parts);
                }
                (SlotModule::Prompt(prompt), Some(SlotParts::Prompt(parts))) => {
                    prompt.adapters.extend_from_slice(parts);
                }
                (SlotModule::Sublayer(sublayer), Some(SlotParts::Sublayer(parts))) => {
                    sublayer.adapters.extend_from_slice(parts);
                }
                (SlotModule::Vector(_), Some(SlotParts::Vector)) => {}
                _ => fits = false,
            }
        });
        if !fits || found != self.slots.len() {
            take_out(model, &self.name);
            return Err(Error::OtherSlots {
                name: self.name.clone(),
                expected: self.slots.len(),
                got: found,
            });
        }
        let config = self.config.as_ref().clone();
        model.adapters_mut().insert(&self.name, config);
        Ok(())
    }

    /// The name under which it is put into models.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The configuration.
    pub fn config(&self) -> &PeftConfig {
        &self.config
    }

    /// The bytes of its parameters.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Takes the parts of one adapter out of a slot; the others keep their order.
fn drain<M>(adapters: &mut Vec<NamedAdapter<M>>, name: &str) -> Vec<NamedAdapter<M>>
where
    M: Module + ModuleDisplay,
{
    adapters.extract_if(.., |part| part.name == name).collect()
}
