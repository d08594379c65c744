//! `flametune plan`: the memory of a run before it runs.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;
use flametune_data::{Batch, BatchSampler, Collator};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, DecoderConfig, LoadOptions};
use flametune_peft::{LoraConfig, PeftConfig, Slots, TargetModules, report};
use flametune_train::fit::TrainingRows;
use flametune_train::plan::{
    Fit, LowRank, Magnitudes, Measured, ModelShape, Plan as MemoryPlan, Projection, Settings,
    Storage, Trained, fitting,
};
use flametune_train::record::Memory;
use flametune_train::{Error, Sft, Trainer, optim};
use indicatif::HumanBytes;

use crate::recipe::{self, Recipe, peft_config};
use crate::train::recipe_text;
use crate::train::sampling::TextSide;
use crate::train::setup::{self, MULTIPLE, Start, encoder, text_side, training_rows};
use crate::train::terminal::{note, print};
use crate::{adapter, model};

/// Part of the memory that is left to other programs.
const SPARE: f64 = 0.05;

/// Predict the memory of a run by component, check the prediction against two steps on the longest
/// batch, and propose settings that fit.
///
/// Examples:
///
///   flametune plan qlora_sft
///   flametune plan my-recipe.toml --memory 6GiB --set optim.batch_size=16
///   flametune plan my-recipe.toml --no-measure
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Plan {
    /// A recipe (TOML), or the name of one that comes with the command
    recipe: String,

    /// Change a key of the recipe, such as optim.batch_size=16; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// What the run may take, such as 6GiB; without it, what is available now
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,

    /// Predict only: load no model and take no step
    #[arg(long)]
    no_measure: bool,
}

/// A number of bytes with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a size such as 6GiB, 800MB or 1073741824, got {text}");
        let split = text.find(|c: char| c.is_ascii_alphabetic());
        let (number, unit) = text.split_at(split.unwrap_or(text.len()));
        let unit = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024.0 * 1024.0,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        if !(number.is_finite() && number > 0.0 && number * unit < 1e18) {
            return Err(wrong());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a checked size"
        )]
        let bytes = (number * unit) as u64;
        Ok(Self(bytes))
    }
}

/// What a first step brings in of the program itself: pages of code, stacks of threads.
const CODE_BYTES: u64 = 8 << 20;

/// What a plan is made of.
struct Sketch<'a> {
    name: &'a str,
    recipe: &'a Recipe,
    shape: ModelShape,
    options: LoadOptions,
    text: TextSide,
    rows: TrainingRows,
    /// Tokens that an adapter puts in front of every row.
    virtual_tokens: usize,
    /// The memory before there is a model.
    program_bytes: u64,
}

impl Plan {
    pub(crate) fn run(&self) -> Result<()> {
        let (name, text) = recipe_text(&self.recipe)?;
        let recipe = recipe::read(&name, &text, &self.set)?;
        if recipe.classifier.is_some() {
            bail!("a plan is of language models, not of classifiers");
        }
        let checkpoint = model::open(&recipe.model.path)?;
        let sketch = Sketch::new(&name, &recipe, &checkpoint)?;
        let budget = self.budget()?;
        let known = sketch.trained()?;
        let plan = known.map(|trained| MemoryPlan::of(&sketch.shape, &sketch.settings(trained)));
        if self.no_measure {
            let Some(plan) = plan else {
                bail!("what this adapter trains shows only in the model: leave --no-measure out");
            };
            print(&plan.to_string())?;
            return sketch.advise(&plan, budget, 1.0);
        }
        if let Some(plan) = &plan
            && plan.peak_bytes() > budget
        {
            print(&plan.to_string())?;
            note("nothing is measured: the prediction is above what there is");
            return sketch.advise(plan, budget, 1.0);
        }
        let (plan, measured) = sketch.measure(checkpoint)?;
        print(&format!("{plan}\n\n{measured}"))?;
        sketch.advise(&plan, budget, measured.ratio().max(1.0))
    }

    fn budget(&self) -> Result<u64> {
        if let Some(Size(bytes)) = self.memory {
            return Ok(bytes);
        }
        let Some(available) = Memory::available_bytes() else {
            bail!("this system does not say how much memory is available: give it with --memory");
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a size"
        )]
        let bytes = (available as f64 * (1.0 - SPARE)) as u64;
        Ok(bytes)
    }
}

impl<'a> Sketch<'a> {
    fn new(name: &'a str, recipe: &'a Recipe, checkpoint: &Checkpoint) -> Result<Self> {
        let config = DecoderConfig::read(checkpoint.config()).context("a plan is of decoders")?;
        let shape = ModelShape::of(&config)?;
        let text = text_side(recipe, checkpoint)?;
        let encoder = encoder(&recipe.data, &text)?;
        let rows = training_rows(recipe, &encoder)?;
        if rows.rows.is_empty() {
            bail!("there are no training data: no record is left");
        }
        let virtual_tokens = match &recipe.adapter {
            Some(section) => {
                peft_config(section, recipe.task_type(), name, None)?.num_virtual_tokens()
            }
            None => 0,
        };
        Ok(Self {
            name,
            recipe,
            shape,
            virtual_tokens,
            options: setup::load_options(recipe, checkpoint)?,
            text,
            rows,
            program_bytes: Memory::now().map_or(0, |memory| memory.rss_bytes),
        })
    }

    /// The longest rows, as many as a micro-batch has.
    fn longest(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows.rows.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(self.rows.rows[index].len()));
        order.truncate(self.recipe.optim.batch_size.max(1));
        order
    }

    fn storage(&self) -> Storage {
        let bytes = self.options.weight_dtype.size();
        match &self.options.quantize {
            Some(quantize) => Storage::Quantized {
                config: quantize.config,
                bytes,
            },
            None => Storage::Dense { bytes },
        }
    }

    fn settings(&self, trained: Trained) -> Settings {
        let optim = &self.recipe.optim;
        let longest = self.longest();
        let rows = || longest.iter().map(|&index| &self.rows.rows[index]);
        let seq = rows().map(|row| row.len()).max().unwrap_or(1);
        let (tokens, supervised) = rows().fold((0, 0), |(tokens, supervised), row| {
            (tokens + row.len(), supervised + row.num_supervised_tokens())
        });
        Settings {
            storage: self.storage(),
            trained,
            rule: optim.rule,
            batch: optim.batch_size.min(self.rows.rows.len()),
            seq: seq.next_multiple_of(MULTIPLE) + self.virtual_tokens,
            accumulation: optim.gradient_accumulation_steps,
            supervised: supervised as f64 / tokens.max(1) as f64,
            recompute: optim.recompute,
            paged_states: optim.paged_states,
            program_bytes: self.program_bytes + CODE_BYTES,
        }
    }

    /// What is trained, as far as the recipe alone tells.
    fn trained(&self) -> Result<Option<Trained>> {
        let Some(section) = &self.recipe.adapter else {
            return Ok(Some(Trained::Everything));
        };
        let config = peft_config(section, self.recipe.task_type(), self.name, None)?;
        Ok(match &config {
            PeftConfig::Lora(lora) => low_rank(lora, &self.shape).map(Trained::LowRank),
            PeftConfig::PromptTuning(prompt) => {
                let count = prompt.tokens.num_virtual_tokens.unwrap_or(0);
                Some(Trained::LowRank(LowRank {
                    r: 0,
                    projections: Vec::new(),
                    other: count * self.shape.d_model,
                    magnitudes: Magnitudes::None,
                }))
            }
            _ => None,
        })
    }

    /// Loads the model and takes two steps on the longest batch.
    fn measure(&self, checkpoint: Checkpoint) -> Result<(MemoryPlan, Measured)> {
        note("measuring: two steps on the longest batch");
        let now = || Memory::now().map_or(0, |memory| memory.rss_bytes);
        let mut model = setup::load(self.recipe, &checkpoint)?;
        setup::check_length(self.recipe, &model)?;
        drop(checkpoint);
        let weights = now().saturating_sub(self.program_bytes);
        let sampler = self.sampler()?;
        let start = Start {
            name: self.name,
            recipe: self.recipe,
            text: &self.text,
            rows: &self.rows,
            sampler: &sampler,
            collator: &self.collator()?,
        };
        let pass = start.begin(&mut model)?;
        let plan = MemoryPlan::of(&self.shape, &self.settings(self.trained_in(&model)?));
        let peak = self.peak(model, pass)?;
        let measured = Measured::peak(&plan, peak).with(&plan, "base weights", weights);
        Ok((plan, measured))
    }

    /// What is trained, as the model with its adapter tells.
    fn trained_in(&self, model: &CausalLm) -> Result<Trained> {
        if let Some(trained) = self.trained()? {
            return Ok(trained);
        }
        let mut found = LowRank::of_report(&report(model), &self.shape);
        if let PeftConfig::Lora(lora) = model.adapters().config(adapter::NAME)?.as_ref() {
            found.magnitudes = magnitudes(lora);
        }
        Ok(Trained::LowRank(found))
    }

    fn peak(&self, model: CausalLm, pass: AdapterPass) -> Result<u64> {
        let optim = &self.recipe.optim;
        let config = self
            .recipe
            .train_config(self.sampler()?.steps_per_epoch())?;
        let grouping = optim::groups(optim.weight_decay, optim.loraplus_lr_ratio);
        let options = self.recipe.sft_options();
        let mut trainer = Trainer::new(model, Sft { pass, options }, config, grouping)?;
        if self.recipe.adapter.is_some() {
            trainer.allocate_ranks(adapter::NAME)?;
        }
        let batch = self.batch()?;
        // Gradients of a second micro-batch meet the sum of those before; a third adds nothing.
        let batches = vec![batch; optim.gradient_accumulation_steps.clamp(1, 2)];
        if !Memory::reset_peak() {
            note("this system counts memory from the start of the program, loading included");
        }
        for _ in 0..2 {
            trainer.train_step(&batches)?;
        }
        match Memory::now() {
            Some(memory) => Ok(memory.peak_bytes),
            None => bail!("this system does not say how much memory a program takes"),
        }
    }

    fn sampler(&self) -> Result<BatchSampler> {
        let options = setup::sampler_options(self.recipe);
        Ok(BatchSampler::new(&self.rows.lengths(), options)?)
    }

    fn collator(&self) -> Result<Collator> {
        Ok(Collator::for_tokenizer(&self.text.tokenizer, MULTIPLE)?)
    }

    fn batch(&self) -> Result<Batch> {
        let longest = self.longest();
        let rows = longest.iter().map(|&index| &self.rows.rows[index]);
        Ok(self.collator()?.collate(rows)?)
    }

    /// Says whether the plan fits, and what would. Predictions count `ratio` times.
    fn advise(&self, plan: &MemoryPlan, budget: u64, ratio: f64) -> Result<()> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a size"
        )]
        let allowed = (budget as f64 / ratio) as u64;
        let there = HumanBytes(budget);
        match fitting(&self.shape, &plan.settings, allowed) {
            Ok(fit) if fit.changes.is_empty() => print(&format!("\nfits into {there}")),
            Ok(fit) => print(&proposal(&fit, &there)),
            Err(Error::OutOfBudget {
                requested_bytes, ..
            }) => print(&format!(
                "\ndoes not fit into {there}: the smallest settings take {}; a smaller model, \
                 [quant], or a lower data.max_length take less",
                HumanBytes(requested_bytes)
            )),
            Err(error) => Err(error.into()),
        }
    }
}

/// Settings that fit, as overrides of the recipe.
fn proposal(fit: &Fit, there: &HumanBytes) -> String {
    let settings = &fit.plan.settings;
    let mut sets = vec![
        format!("optim.batch_size={}", settings.batch),
        format!(
            "optim.gradient_accumulation_steps={}",
            settings.accumulation
        ),
        format!("optim.recompute={}", settings.recompute),
    ];
    if let Trained::LowRank(adapter) = &settings.trained
        && adapter.r > 0
    {
        sets.push(format!("adapter.r={}", adapter.r));
    }
    format!(
        "\ndoes not fit into {there}; this does, with {}: {}\n\n  --set {}",
        HumanBytes(fit.plan.peak_bytes()),
        fit.changes.join("; "),
        sets.join(" --set ")
    )
}

/// The adapters that a configuration names, unless only the model can tell.
fn low_rank(config: &LoraConfig, shape: &ModelShape) -> Option<LowRank> {
    let all = shape.projections();
    let named = match config.target_modules.as_ref()? {
        TargetModules::AllLinear => all.to_vec(),
        TargetModules::List(names) => {
            let is_named = |p: &&Projection| names.iter().any(|name| name == p.as_str());
            all.iter().filter(is_named).copied().collect()
        }
        TargetModules::Regex(_) => return None,
    };
    let plain = config.rank_pattern.is_empty()
        && config.modules_to_save.is_none()
        && config.exclude_modules.is_none()
        && config.layers_to_transform.is_none()
        && config.trainable_token_indices.is_none()
        && !config.lora_bias
        && config.bias == flametune_peft::BiasMode::None;
    let is_whole = match &config.target_modules {
        Some(TargetModules::List(names)) => names.len() == named.len(),
        _ => true,
    };
    if !(plain && is_whole) {
        return None;
    }
    let lengths: usize = match config.use_dora {
        true => named.iter().map(|p| shape.dims(*p)[0]).sum(),
        false => 0,
    };
    Some(LowRank {
        r: config.r,
        projections: named,
        other: shape.layers * lengths,
        magnitudes: magnitudes(config),
    })
}

fn magnitudes(config: &LoraConfig) -> Magnitudes {
    match (config.use_dora, config.lora_dropout > 0.0) {
        (false, _) => Magnitudes::None,
        (true, false) => Magnitudes::Trained,
        (true, true) => Magnitudes::WithDropout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("6GiB", 6 << 30),
            ("1.5g", 3 << 29),
            ("800MB", 800_000_000),
            ("1024", 1024),
            ("2 KiB", 2048),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "GiB", "6 parsecs", "-1GiB", "nan", "1e300GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
