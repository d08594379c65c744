//! Everything that a run needs before its first step: text, data, model, adapter.

use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use flametune_data::{
    Batch, BatchSampler, BatchSize, Collator, Contamination, ContaminationOptions, CurationOptions,
    Dataset, DatasetOptions, EncodeOptions, Encoder, Error as DataError, Exclusions, SamplerCursor,
    SamplerOptions, Side, SourceOptions, Split, SplitBy, Tokenizer, curate,
};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, EvaBatch, LoadOptions};
use flametune_peft::{
    EvaConfig, InitLoraWeights, LoraConfig, PeftConfig, PromptTuningInit, TrainableReport, inject,
    report, set_trainable,
};
use flametune_train::fit::{Packing, TrainingRows};
use flametune_train::{Error, token_batch};

use super::folder::RunFolder;
use super::sampling::TextSide;
use super::terminal::{note, warn};
use crate::adapter::passport;
use crate::device::{DeviceArgs, DtypeName};
use crate::quantize::QuantizeArgs;
use crate::recipe::{DataSection, Recipe, peft_config};
use crate::{adapter, model, text};

/// Batches whose rows are sorted by length together, where rows are not packed.
const BUCKET_BATCHES: usize = 16;

/// Rows are padded to a multiple of this.
pub(crate) const MULTIPLE: usize = 8;

/// What a run trains, on what.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) text: TextSide,
    pub(crate) rows: TrainingRows,
    pub(crate) sampler: BatchSampler,
    pub(crate) collator: Collator,
    pub(crate) evaluation: Vec<Batch>,
    pub(crate) model: CausalLm,
    pub(crate) pass: AdapterPass,
    pub(crate) report: TrainableReport,
}

impl Prepared {
    /// Reads the data, then loads the model: what is wrong with the data shows at once.
    pub(crate) fn new(name: &str, recipe: &Recipe, folder: &RunFolder) -> Result<Self> {
        let checkpoint = open(recipe, folder)?;
        let text = text_side(recipe, &checkpoint)?;
        let encoder = encoder(&recipe.data, &text)?;
        let rows = training_rows(recipe, &encoder)?;
        let sampler = BatchSampler::new(&rows.lengths(), sampler_options(recipe))
            .context("cannot make batches of the training data")?;
        let collator = Collator::for_tokenizer(&text.tokenizer, MULTIPLE)?;
        let evaluation = match validation(recipe, &encoder)? {
            Some(rows) => rows.batches(&collator, recipe.optim.batch_size)?,
            None => Vec::new(),
        };
        let mut model = load(recipe, &checkpoint)?;
        text.tokenizer.check_against(model.vocab_size())?;
        check_length(recipe, &model)?;
        let start = Start {
            name,
            recipe,
            text: &text,
            rows: &rows,
            sampler: &sampler,
            collator: &collator,
        };
        let pass = match folder.resumed() {
            Some(at) => start.go_on(&mut model, at, &checkpoint)?,
            None => {
                let pass = start.begin(&mut model)?;
                start.reconstruct(&mut model, &checkpoint)?;
                pass
            }
        };
        let report = report(&model);
        Ok(Self {
            checkpoint,
            text,
            rows,
            sampler,
            collator,
            evaluation,
            model,
            pass,
            report,
        })
    }
}

/// The base, or of full fine-tuning that goes on, the model of the checkpoint.
fn open(recipe: &Recipe, folder: &RunFolder) -> Result<Checkpoint> {
    let base = model::open(&recipe.model.path)?;
    match folder.resumed() {
        Some(at) if recipe.adapter.is_none() => {
            Checkpoint::open(at).with_context(|| format!("cannot go on from {}", at.display()))
        }
        _ => Ok(base),
    }
}

/// The tokenizer and template of a recipe's model.
pub(crate) fn text_side(recipe: &Recipe, checkpoint: &Checkpoint) -> Result<TextSide> {
    let tokenizer = match recipe.adapter {
        // A checkpoint of full fine-tuning has no tokenizer; the base has.
        None => text::tokenizer(&model::open(&recipe.model.path)?),
        Some(_) => text::tokenizer(checkpoint),
    };
    let tokenizer = tokenizer.context("cannot read the tokenizer")?;
    let wanted = recipe.data.chat_template.as_deref();
    let template = match (wanted, tokenizer.chat_template()) {
        (None, None) => None,
        _ => Some(text::chat_template(&tokenizer, wanted)?),
    };
    Ok(TextSide {
        tokenizer,
        template,
    })
}

/// What turns the records of a recipe into ids and labels.
pub(crate) fn encoder(data: &DataSection, text: &TextSide) -> Result<Encoder> {
    let options = EncodeOptions {
        train_on: data.train_on,
        max_length: Some(data.max_length),
        truncation: data.truncation,
        append_eos: text.tokenizer.special().eos.is_some(),
        ..EncodeOptions::default()
    };
    Ok(Encoder::new(
        text.tokenizer.clone(),
        text.template.clone(),
        options,
    )?)
}

/// One side of a recipe's data.
pub(crate) fn dataset(recipe: &Recipe, side: Side) -> Result<Dataset> {
    let data = &recipe.data;
    let own = side == Side::Validation && !data.validation_sources.is_empty();
    let sources = if own {
        &data.validation_sources
    } else {
        &data.sources
    };
    let mut sources: Vec<SourceOptions> = sources.iter().map(located).collect();
    if let Some(classifier) = &recipe.classifier {
        for source in &mut sources {
            if source.convert.classes.is_empty() {
                source.convert.classes.clone_from(&classifier.classes);
            }
        }
    }
    let mut options = DatasetOptions::new(sources);
    options.seed = recipe.run.seed;
    options.on_invalid = data.on_invalid;
    options.hub = model::hub_folder().into_iter().collect();
    if data.validation != 0.0 && !own {
        options.split = Some(Split {
            validation: data.validation,
            seed: 0,
            by: SplitBy::Record,
        });
        options.side = Some(side);
    }
    if side == Side::Validation {
        return Ok(Dataset::open(options)?);
    }
    options.augmentation.clone_from(&data.augmentation);
    let exclusions = exclusions(data, &options)?;
    Ok(Dataset::open_without(options, exclusions)?)
}

/// What is left out of the training data.
fn exclusions(data: &DataSection, options: &DatasetOptions) -> Result<Exclusions> {
    if data.curation.is_none() && data.decontaminate.is_empty() {
        return Ok(Exclusions::default());
    }
    let nothing = CurationOptions {
        exact_duplicates: false,
        ..CurationOptions::default()
    };
    let mut evaluation = Contamination::new(ContaminationOptions::default())?;
    if !data.decontaminate.is_empty() {
        let mut sets = DatasetOptions::new(data.decontaminate.iter().map(located).collect());
        sets.hub.clone_from(&options.hub);
        let context = "cannot read data.decontaminate";
        evaluation
            .add_all(Dataset::open(sets).context(context)?)
            .context(context)?;
    }
    let curation = data.curation.as_ref().unwrap_or(&nothing);
    let found = curate(options, curation, Some(&evaluation))?;
    for (count, what) in [
        (found.low_quality, "are below the quality asked for"),
        (found.contaminated, "overlap with an evaluation item"),
        (found.exact_duplicates, "repeat an earlier one"),
        (found.near_duplicates, "nearly repeat an earlier one"),
    ] {
        if count > 0 {
            note(&format!(
                "left out of {} records: {count} {what}",
                found.examples
            ));
        }
    }
    if let Some(finding) = found.findings.first() {
        note(&format!("the first: {finding}"));
    }
    Ok(found.exclusions)
}

/// A source with the files of fetched data sets in place of their names.
fn located(source: &SourceOptions) -> SourceOptions {
    let mut source = source.clone();
    for path in &mut source.paths {
        if let Some(fetched) = model::fetched_file(path) {
            *path = fetched.display().to_string();
        }
    }
    source
}

fn packing(data: &DataSection) -> Packing {
    if data.packing {
        Packing::To(data.max_length)
    } else {
        Packing::Off
    }
}

/// The rows of a recipe's training data.
pub(crate) fn training_rows(recipe: &Recipe, encoder: &Encoder) -> Result<TrainingRows> {
    let mut dataset = dataset(recipe, Side::Train).context("cannot read the training data")?;
    let rows = TrainingRows::encode(&mut dataset, encoder, packing(&recipe.data))
        .context("cannot read the training data")?;
    note(&format!("training data: {}", rows.statistics()));
    let invalid: u64 = dataset.stats().iter().map(|stats| stats.invalid).sum();
    for (count, what) in [
        (
            rows.skipped as u64 + invalid,
            "cannot be used and were skipped",
        ),
        (rows.dropped as u64, "were too long and were left out"),
        (rows.truncated as u64, "were too long and were cut"),
        (
            rows.missing_eos as u64,
            "do not end with a token that ends a generation",
        ),
    ] {
        if count > 0 {
            warn(&format!("{count} records {what}"));
        }
    }
    Ok(rows)
}

fn validation(recipe: &Recipe, encoder: &Encoder) -> Result<Option<TrainingRows>> {
    let data = &recipe.data;
    if !recipe.has_validation() {
        return Ok(None);
    }
    let context = "cannot read the validation data";
    let mut dataset = dataset(recipe, Side::Validation).context(context)?;
    let rows = match TrainingRows::encode(&mut dataset, encoder, packing(data)) {
        Err(Error::Data(DataError::EmptyDataset { .. })) if data.validation != 0.0 => {
            bail!("no record is held back for validation; a larger data.validation holds back more")
        }
        rows => rows.context(context)?,
    };
    note(&format!("validation data: {}", rows.statistics()));
    Ok(Some(rows))
}

pub(crate) fn sampler_options(recipe: &Recipe) -> SamplerOptions {
    let (data, optim) = (&recipe.data, &recipe.optim);
    let bucket = if data.packing { 1 } else { BUCKET_BATCHES };
    SamplerOptions {
        batch_size: BatchSize::Examples(optim.batch_size),
        accumulation: optim.gradient_accumulation_steps,
        bucket: bucket.saturating_mul(optim.batch_size).max(1),
        seed: Some(recipe.run.seed),
    }
}

/// The sampler where a checkpoint left it.
pub(crate) fn resume_sampler(
    rows: &TrainingRows,
    recipe: &Recipe,
    cursor: &SamplerCursor,
) -> Result<BatchSampler> {
    let options = sampler_options(recipe);
    Ok(BatchSampler::resume(&rows.lengths(), options, cursor)?)
}

/// How the model of a recipe is loaded.
pub(crate) fn load_options(recipe: &Recipe, checkpoint: &Checkpoint) -> Result<LoadOptions> {
    let device = DeviceArgs {
        device: recipe.model.device,
        dtype: recipe.model.dtype,
    };
    let mut options: LoadOptions = device.load_options(checkpoint)?;
    if recipe.adapter.is_none() {
        if recipe.model.dtype == DtypeName::F16 {
            bail!("model.dtype = \"f16\" cannot be trained in full; bf16 and f32 can");
        }
        // Updates are far smaller than the steps between 16-bit numbers.
        options.weight_dtype = match recipe.optim.stochastic_rounding {
            true => DType::BF16,
            false => DType::F32,
        };
        options.compute_dtype = DType::F32;
    }
    if let Some(quant) = recipe.quant {
        let quantize = QuantizeArgs::new(quant.kind, quant.block_size, quant.double_quant);
        options = quantize.apply(options)?;
    }
    options.device = options.device.autodiff();
    Ok(options)
}

/// Loads the model of a recipe.
pub(crate) fn load(recipe: &Recipe, checkpoint: &Checkpoint) -> Result<CausalLm> {
    let model = model::load(checkpoint, &load_options(recipe, checkpoint)?)?;
    model.check_predicts_tokens()?;
    Ok(model)
}

/// Checks that rows fit into the model's context.
pub(crate) fn check_length(recipe: &Recipe, model: &CausalLm) -> Result<()> {
    let (length, limit) = (recipe.data.max_length, model.max_position_embeddings());
    if length > limit {
        bail!("data.max_length is {length}, and the model's context {limit} tokens");
    }
    Ok(())
}

/// Batches that EVA looks at, at most.
const EVA_BATCHES: usize = 64;

/// Batches that QERA looks at, at most: mean squares settle soon.
const QERA_BATCHES: usize = 8;

/// What an adapter begins with.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) name: &'a str,
    pub(crate) recipe: &'a Recipe,
    pub(crate) text: &'a TextSide,
    pub(crate) rows: &'a TrainingRows,
    pub(crate) sampler: &'a BatchSampler,
    pub(crate) collator: &'a Collator,
}

impl Start<'_> {
    /// Puts a new adapter in place, if the recipe has one.
    pub(crate) fn begin(&self, model: &mut CausalLm) -> Result<AdapterPass> {
        let recipe = self.recipe;
        let Some(section) = &recipe.adapter else {
            return Ok(AdapterPass::default());
        };
        let planned = recipe.train_config(self.sampler.steps_per_epoch())?;
        let steps = Some(planned.max_steps);
        let mut config = peft_config(section, recipe.task_type(), self.name, steps)?;
        begin_at_text(&mut config, recipe, &self.text.tokenizer)?;
        let common = config.common_mut();
        common.inference_mode = false;
        common
            .base_model_name_or_path
            .get_or_insert_with(|| recipe.model.path.clone());
        match &config {
            PeftConfig::Lora(lora) if lora.init_lora_weights == InitLoraWeights::Eva => {
                self.begin_at_activations(model, lora)?;
            }
            config => inject(model, adapter::NAME, config, recipe.run.seed)?,
        }
        Ok(AdapterPass::one(adapter::NAME))
    }

    /// Puts the adapter of a checkpoint in place, if the recipe has one.
    fn go_on(&self, model: &mut CausalLm, at: &Path, base: &Checkpoint) -> Result<AdapterPass> {
        if self.recipe.adapter.is_none() {
            return Ok(AdapterPass::default());
        }
        let pass = adapter::load(model, at)?;
        passport::check(at, base, model)
            .with_context(|| format!("cannot go on from {}", at.display()))?;
        set_trainable(model, &[adapter::NAME])?;
        Ok(pass)
    }

    /// Begins at what the layers see of the first batches (EVA).
    fn begin_at_activations(&self, model: &mut CausalLm, config: &LoraConfig) -> Result<()> {
        let options = config.eva_config.clone().unwrap_or_default();
        let batches = self.first_batches(EVA_BATCHES, |batch| counted(batch, &options))?;
        note(&format!(
            "EVA: looking at {} batches at most",
            batches.len()
        ));
        let seed = self.recipe.run.seed;
        let settled = model.inject_eva(adapter::NAME, config, seed, &batches, batches.len())?;
        if !settled {
            warn("EVA: not all directions have settled; larger batches settle more of them");
        }
        Ok(())
    }

    /// Begins at what quantizing the base loses (QERA), if the recipe says so.
    fn reconstruct(&self, model: &mut CausalLm, base: &Checkpoint) -> Result<()> {
        if !self.recipe.quant.is_some_and(|quant| quant.reconstruct) {
            return Ok(());
        }
        let batches = self.first_batches(QERA_BATCHES, real_tokens)?;
        note(&format!("QERA: looking at {} batches", batches.len()));
        let dense = Recipe {
            quant: None,
            ..self.recipe.clone()
        };
        let mut dense = load(&dense, base)?;
        let report = model.begin_at_dense(adapter::NAME, &mut dense, &batches)?;
        note(&format!(
            "QERA: the error of the quantized layers' outputs is {:.1} %, with the adapter {:.1} %",
            100.0 * report.before,
            100.0 * report.after
        ));
        Ok(())
    }

    /// The first batches of the run, at most `limit`.
    fn first_batches(
        &self,
        limit: usize,
        counts: impl Fn(&Batch) -> Vec<bool>,
    ) -> Result<Vec<EvaBatch>> {
        let mut sampler = self.sampler.clone();
        let mut batches = Vec::new();
        for _ in 0..self.sampler.steps_per_epoch() {
            let step = sampler.next_step();
            for batch in self.collator.step(&self.rows.rows, &step)?.batches {
                batches.push(EvaBatch {
                    batch: token_batch(&batch)?,
                    counts: counts(&batch),
                });
            }
            if batches.len() >= limit {
                break;
            }
        }
        batches.truncate(limit);
        Ok(batches)
    }
}

/// Which tokens of a batch are no padding.
fn real_tokens(batch: &Batch) -> Vec<bool> {
    let seq = batch.seq.max(1);
    (0..batch.labels.len())
        .map(|place| place % seq < batch.lengths[place / seq])
        .collect()
}

/// Which tokens of a batch EVA counts: no padding, and none without a label if it asks for that.
fn counted(batch: &Batch, options: &EvaConfig) -> Vec<bool> {
    let left_out = |label| options.use_label_mask && label == options.label_mask_value;
    let labels = batch.labels.iter().zip(real_tokens(batch));
    labels
        .map(|(&label, real)| real && !left_out(label))
        .collect()
}

/// Gives virtual tokens that begin at a text the ids of that text.
fn begin_at_text(config: &mut PeftConfig, recipe: &Recipe, tokenizer: &Tokenizer) -> Result<()> {
    if let PeftConfig::PromptTuning(config) = config
        && let (PromptTuningInit::Text, Some(text)) =
            (config.prompt_tuning_init, &config.prompt_tuning_init_text)
    {
        config.init_token_ids = Some(tokenizer.encode(text, false)?);
        // PEFT wants to know, though the vectors are stored.
        config
            .tokenizer_name_or_path
            .get_or_insert_with(|| recipe.model.path.clone());
    }
    Ok(())
}
