//! Putting adapters into a model's slots, and taking them out again.

use flametune_quant::BaseLinear;

use crate::base;
use crate::bias::BiasMode;
use crate::build::{Adapted, Build, Modules, Site};
use crate::config::PeftConfig;
use crate::error::{Error, Result};
use crate::lora::{InitLoraWeights, begin_loftq};
use crate::report::{TrainableReport, report};
use crate::slots::{
    AdapterEmbedding, AdapterNorm, BaseRef, BiasLinear, BiasNorm, EmbeddingMethod, LinearMethod,
    LinearSlot, NamedAdapter, NormMethod, SavedEmbedding, SavedLinear, SavedNorm, Slot, SlotModule,
    Slots, freeze, set_trainable as set_slot_trainable,
};
use crate::targets::{Candidate, Choice, choose, no_match};

/// Adds a new adapter to every module that its configuration names, and freezes the base.
///
/// The parameters are a function of `seed`. They are trained unless the configuration says
/// `inference_mode`.
///
/// The base stays as it is, but for [`InitLoraWeights::Loftq`](crate::InitLoraWeights), which
/// quantizes the dense layers that the adapter goes on; they stay quantized when the adapter is
/// removed.
///
/// # Errors
/// [`Error::UnsupportedOption`] for LoftQ on layers that are quantized already or carry other
/// adapters, and for EVA, which looks at data: see [`EvaInit`](crate::EvaInit).
///
/// [`Error::InvalidName`] and [`Error::NameTaken`] for the name, [`Error::NoMatch`] for names and
/// patterns that match no module, [`Error::UnsupportedModule`] for modules that the method cannot
/// adapt, [`Error::Merged`] while another adapter is merged into the base, and those of
/// [`PeftConfig::validate`]. [`Error::NoPlace`] for a method with places of its own that the model
/// lacks. The model is then as it was.
pub fn inject<M: Slots>(model: &mut M, name: &str, config: &PeftConfig, seed: u64) -> Result<()> {
    match config {
        PeftConfig::Lora(lora) if lora.init_lora_weights == InitLoraWeights::Eva => {
            Err(Error::UnsupportedOption {
                field: "init_lora_weights",
                value: "eva".to_owned(),
                hint: "EVA begins with batches of data, through EvaInit",
            })
        }
        PeftConfig::Lora(lora) if lora.init_lora_weights == InitLoraWeights::Loftq => {
            place(model, name, config, seed)?;
            if let Err(error) = begin_loftq(model, name, lora) {
                remove(model, name)?;
                return Err(error);
            }
            let trainable = !config.common().inference_mode;
            each_named(model, name, trainable);
            Ok(())
        }
        _ => place(model, name, config, seed),
    }
}

/// [`inject`] without what a configuration asks for beyond the parts in their places: factors of
/// LoftQ and EVA begin as those of ordinary LoRA, and the base stays as it is.
pub(crate) fn place<M: Slots>(
    model: &mut M,
    name: &str,
    config: &PeftConfig,
    seed: u64,
) -> Result<()> {
    config.validate()?;
    model.adapters().check_new(name)?;
    check_not_merged(model)?;
    let config = &resolved(model, config)?;
    let modules = candidates(model);
    let method = config.method();
    let mut choices = choose(&method.targeting(), &modules)?;
    let input = modules.iter().position(|module| module.is_embedding);
    if let Some(choice) = input
        .filter(|_| method.targets_input())
        .map(|at| &mut choices[at])
    {
        *choice = Choice::Adapted;
    }
    let untouched = choices.iter().all(|choice| *choice == Choice::Untouched);
    if untouched && !config.has_own_places() {
        let all: Vec<&str> = modules.iter().map(|module| module.path.as_str()).collect();
        return Err(no_match("target_modules", "", &all));
    }
    let builder = method.builder(&Modules {
        adapted: modules
            .iter()
            .zip(&choices)
            .filter(|(_, choice)| **choice == Choice::Adapted)
            .map(|(module, _)| Adapted {
                path: &module.path,
                shape: module.linear,
            })
            .collect(),
        embeddings: modules
            .iter()
            .filter(|module| module.is_embedding)
            .map(|module| module.path.as_str())
            .collect(),
    })?;
    let mut placing = Placing {
        name,
        builder: builder.as_ref(),
        bias: method.bias(),
        input: input.map(|at| modules[at].path.as_str()),
        seed,
        trainable: !config.common().inference_mode,
        found_own_place: false,
    };
    let mut choices = choices.iter();
    let mut outcome = Ok(());
    model.visit_slots(&mut |slot| {
        let choice = match slot.module.is_named() {
            true => choices.next().copied().unwrap_or(Choice::Untouched),
            false => Choice::Untouched,
        };
        if outcome.is_ok() {
            outcome = placing.place(slot, choice);
        }
    });
    if config.has_own_places() && !placing.found_own_place {
        outcome = outcome.and(Err(Error::NoPlace {
            method: builder.method(),
        }));
    }
    if let Err(error) = outcome {
        take_out(model, name);
        return Err(error);
    }
    model.visit_slots(&mut |mut slot| freeze_base(&mut slot));
    model.adapters_mut().insert(name, config.clone());
    let trainable = placing.trainable;
    each_named(model, name, trainable);
    Ok(())
}

/// The configuration with what it leaves to the model filled in.
fn resolved<M: Slots>(model: &mut M, config: &PeftConfig) -> Result<PeftConfig> {
    let mut config = config.clone();
    let mut outcome = Ok(());
    model.visit_slots(&mut |slot| {
        if let (SlotModule::Prompt(prompt), Ok(())) = (slot.module, &outcome) {
            outcome = config.resolve_shape(&prompt.shape);
        }
    });
    outcome.map(|()| config)
}

/// The modules that a configuration would adapt, and with how many parameters: a dry run of
/// [`inject`], which leaves the model alone.
///
/// # Errors
/// Those of [`inject`].
pub fn resolve<M: Slots>(model: &M, config: &PeftConfig) -> Result<TrainableReport> {
    const NAME: &str = "dry run";
    let mut trial = model.clone();
    let known: Vec<String> = trial.adapters().names().map(str::to_owned).collect();
    for name in known {
        remove(&mut trial, &name)?;
    }
    place(&mut trial, NAME, config, 0)?;
    Ok(report(&trial))
}

/// Takes an adapter out of the model and returns its configuration.
///
/// # Errors
/// [`Error::UnknownAdapter`]; [`Error::Merged`] when it is merged into the base.
pub fn remove<M: Slots>(model: &mut M, name: &str) -> Result<PeftConfig> {
    model.adapters().config(name)?;
    check_unmerged(model, name)?;
    let config = model.adapters_mut().remove(name)?;
    take_out(model, name);
    Ok(config.as_ref().clone())
}

/// Gives an adapter another name.
///
/// # Errors
/// [`Error::UnknownAdapter`]; [`Error::InvalidName`] and [`Error::NameTaken`] for the new name;
/// [`Error::Merged`] when it is merged into the base.
pub fn rename<M: Slots>(model: &mut M, from: &str, to: &str) -> Result<()> {
    check_unmerged(model, from)?;
    model.adapters_mut().rename(from, to)?;
    model.visit_slots(&mut |slot| match slot.module {
        SlotModule::Linear(linear) => rename_in(linear.adapters, from, to),
        SlotModule::Embedding(embedding) => rename_in(&mut embedding.adapters, from, to),
        SlotModule::Norm(norm) => rename_in(&mut norm.adapters, from, to),
        SlotModule::Prompt(prompt) => rename_in(prompt.adapters, from, to),
        SlotModule::Sublayer(sublayer) => rename_in(sublayer.adapters, from, to),
        SlotModule::Vector(_) => {}
    });
    Ok(())
}

/// Trains these adapters, and freezes all others and the base.
///
/// # Errors
/// [`Error::UnknownAdapter`]; the model is then as it was.
pub fn set_trainable<M: Slots>(model: &mut M, names: &[&str]) -> Result<()> {
    for name in names {
        model.adapters().config(name)?;
    }
    let known: Vec<String> = model.adapters().names().map(str::to_owned).collect();
    model.visit_slots(&mut |mut slot| freeze_base(&mut slot));
    for name in known {
        let trainable = names.contains(&name.as_str());
        each_named(model, &name, trainable);
    }
    Ok(())
}

fn rename_in<M>(adapters: &mut [NamedAdapter<M>], from: &str, to: &str)
where
    M: burn::module::Module + burn::module::ModuleDisplay,
{
    for adapter in adapters.iter_mut().filter(|adapter| adapter.name == from) {
        to.clone_into(&mut adapter.name);
    }
}

pub(crate) fn each_named<M: Slots>(model: &mut M, name: &str, trainable: bool) {
    model.visit_slots(&mut |slot| match slot.module {
        SlotModule::Linear(linear) => set_slot_trainable(linear.adapters, name, trainable),
        SlotModule::Embedding(table) => set_slot_trainable(&mut table.adapters, name, trainable),
        SlotModule::Norm(norm) => set_slot_trainable(&mut norm.adapters, name, trainable),
        SlotModule::Prompt(prompt) => set_slot_trainable(prompt.adapters, name, trainable),
        SlotModule::Sublayer(sublayer) => set_slot_trainable(sublayer.adapters, name, trainable),
        SlotModule::Vector(_) => {}
    });
}

/// Removes the parts of an adapter from all slots.
pub(crate) fn take_out<M: Slots>(model: &mut M, name: &str) {
    model.visit_slots(&mut |slot| match slot.module {
        SlotModule::Linear(linear) => linear.adapters.retain(|adapter| adapter.name != name),
        SlotModule::Embedding(table) => table.adapters.retain(|adapter| adapter.name != name),
        SlotModule::Norm(norm) => norm.adapters.retain(|adapter| adapter.name != name),
        SlotModule::Prompt(prompt) => prompt.adapters.retain(|adapter| adapter.name != name),
        SlotModule::Sublayer(sublayer) => sublayer.adapters.retain(|adapter| adapter.name != name),
        SlotModule::Vector(_) => {}
    });
}

fn freeze_base(slot: &mut Slot<'_>) {
    match &mut slot.module {
        SlotModule::Linear(LinearSlot {
            base: BaseRef::Own(base),
            ..
        }) => freeze(*base),
        SlotModule::Linear(_) => {}
        SlotModule::Embedding(table) => freeze(&mut table.weight),
        SlotModule::Norm(norm) => {
            freeze(&mut norm.weight);
            freeze(&mut norm.bias);
        }
        SlotModule::Vector(vector) => freeze(*vector),
        SlotModule::Prompt(_) | SlotModule::Sublayer(_) => {}
    }
}

fn check_not_merged<M: Slots>(model: &M) -> Result<()> {
    match model.adapters().merged().first() {
        Some(name) => Err(Error::Merged { name: name.clone() }),
        None => Ok(()),
    }
}

fn check_unmerged<M: Slots>(model: &M, name: &str) -> Result<()> {
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
    Ok(())
}

fn candidates<M: Slots>(model: &mut M) -> Vec<Candidate> {
    let mut found = Vec::new();
    model.visit_slots(&mut |slot| {
        if !slot.module.is_named() {
            return;
        }
        found.push(Candidate {
            path: slot.path.to_owned(),
            role: slot.role,
            linear: match &slot.module {
                SlotModule::Linear(linear) => {
                    let base = linear.base.get();
                    Some([base.d_out(), base.d_in()])
                }
                _ => None,
            },
            is_embedding: matches!(slot.module, SlotModule::Embedding(_)),
        });
    });
    found
}

struct Placing<'a> {
    name: &'a str,
    builder: &'a dyn Build,
    bias: BiasMode,
    /// The embedding of the input.
    input: Option<&'a str>,
    seed: u64,
    trainable: bool,
    /// Whether a place that no configuration names took a part.
    found_own_place: bool,
}

impl Placing<'_> {
    fn place(&mut self, slot: Slot<'_>, choice: Choice) -> Result<()> {
        let site = Site {
            path: slot.path,
            seed: self.seed,
            is_input: self.input == Some(slot.path),
        };
        match slot.module {
            SlotModule::Linear(mut linear) => self.linear(&site, &mut linear, choice),
            SlotModule::Embedding(table) => self.embedding(&site, table, choice),
            SlotModule::Norm(norm) => self.norm(&site, norm, choice),
            SlotModule::Prompt(prompt) => {
                let part = self.builder.prompt(&site, &prompt)?;
                self.found_own_place |= part.is_some();
                prompt.adapters.extend(part.map(|part| self.named(part)));
                Ok(())
            }
            SlotModule::Sublayer(sublayer) => {
                let part = self.builder.sublayer(&site, &sublayer)?;
                self.found_own_place |= part.is_some();
                sublayer.adapters.extend(part.map(|part| self.named(part)));
                Ok(())
            }
            SlotModule::Vector(_) if choice != Choice::Untouched => {
                Err(self.builder.unsupported(&site, "a single vector"))
            }
            SlotModule::Vector(_) => Ok(()),
        }
    }

    fn named<M>(&self, method: M) -> NamedAdapter<M>
    where
        M: burn::module::Module + burn::module::ModuleDisplay,
    {
        NamedAdapter {
            method,
            name: self.name.to_owned(),
            trainable: self.trainable,
        }
    }

    fn linear(&self, site: &Site<'_>, slot: &mut LinearSlot<'_>, choice: Choice) -> Result<()> {
        let base: &BaseLinear = slot.base.get();
        match choice {
            Choice::Untouched => {}
            Choice::Adapted => slot
                .adapters
                .push(self.named(self.builder.linear(site, base)?)),
            Choice::Saved => slot
                .adapters
                .push(self.named(LinearMethod::Saved(SavedLinear::of(base)))),
        }
        let adapted = choice == Choice::Adapted;
        let wanted = match self.bias {
            BiasMode::None => false,
            BiasMode::All => choice != Choice::Saved,
            BiasMode::LoraOnly => adapted,
        };
        if wanted && base::bias(base).is_some() {
            let bias = BiasLinear::of(base, adapted).map(LinearMethod::Bias);
            slot.adapters.extend(bias.map(|bias| self.named(bias)));
        }
        Ok(())
    }

    fn embedding(
        &self,
        site: &Site<'_>,
        table: &mut AdapterEmbedding,
        choice: Choice,
    ) -> Result<()> {
        let weight = table.weight.val();
        let beside = self.builder.beside(site, &weight)?;
        let method = match choice {
            Choice::Untouched => None,
            Choice::Adapted => Some(self.builder.embedding(site, &weight)?),
            Choice::Saved => Some(EmbeddingMethod::Saved(SavedEmbedding::of(weight))),
        };
        let methods = method.into_iter().chain(beside);
        table.adapters.extend(methods.map(|part| self.named(part)));
        Ok(())
    }

    fn norm(&self, site: &Site<'_>, norm: &mut AdapterNorm, choice: Choice) -> Result<()> {
        let (weight, bias) = norm.weights();
        let method = match choice {
            Choice::Adapted => Some(self.builder.norm(site, &weight, bias.as_ref())?),
            Choice::Saved => Some(NormMethod::Saved(SavedNorm::of((weight, bias)))),
            Choice::Untouched if self.bias == BiasMode::All => {
                BiasNorm::of(bias).map(NormMethod::Bias)
            }
            Choice::Untouched => None,
        };
        norm.adapters
            .extend(method.map(|method| self.named(method)));
        Ok(())
    }
}
