//! What the stages of a run share: the base, its adapters, text and data.

use std::path::Path;

use anyhow::{Context, Result, bail};
use flametune_align::vocabulary_digest;
use flametune_data::{
    BatchSampler, BatchSize, ChatTemplate, Collator, Dataset, DatasetOptions, EncodeOptions,
    Encoder, Example, Message, SamplerCursor, SamplerOptions, Side, SourceOptions, Split, SplitBy,
    Tokenizer,
};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint};
use flametune_peft::{Slots, inject, load_adapter, set_trainable};

use super::recipe::AlignRecipe;
use crate::device::DeviceArgs;
use crate::quantize::QuantizeArgs;
use crate::recipe::DataSection;
use crate::{model, text};

/// Rows are padded to a multiple of this.
const MULTIPLE: usize = 8;

/// Batches whose rows are sorted by length together.
const BUCKET_BATCHES: usize = 16;

/// The base with the adapters that stages have trained, and its text side.
pub(super) struct Workbench {
    pub(super) checkpoint: Checkpoint,
    pub(super) tokenizer: Tokenizer,
    pub(super) template: ChatTemplate,
    pub(super) collator: Collator,
    /// Away only while a stage trains.
    model: Option<CausalLm>,
    /// The digest of the tokenizer, for heads.
    pub(super) digest: String,
    /// The width of hidden states.
    pub(super) d_model: usize,
}

impl Workbench {
    /// Opens and loads the base of a recipe.
    pub(super) fn new(recipe: &AlignRecipe) -> Result<Self> {
        let checkpoint = model::open(&recipe.model.path)?;
        let tokenizer = text::tokenizer(&checkpoint).context("cannot read the tokenizer")?;
        let template = text::chat_template(&tokenizer, recipe.data.chat_template.as_deref())?;
        let device = DeviceArgs {
            device: recipe.model.device,
            dtype: recipe.model.dtype,
        };
        let mut options = device.load_options(&checkpoint)?;
        if let Some(quant) = recipe.quant {
            if quant.reconstruct {
                bail!("quant.reconstruct is of `flametune train`; align what it has made");
            }
            let quantize = QuantizeArgs::new(quant.kind, quant.block_size, quant.double_quant);
            options = quantize.apply(options)?;
        }
        options.device = options.device.autodiff();
        let lm = model::load(&checkpoint, &options)?;
        lm.check_predicts_tokens()?;
        tokenizer.check_against(lm.vocab_size())?;
        let d_model = match &lm {
            CausalLm::Decoder(decoder) => decoder.model.config().hidden_size,
            CausalLm::Gpt2(gpt2) => gpt2.transformer.config().n_embd,
        };
        Ok(Self {
            collator: Collator::for_tokenizer(&tokenizer, MULTIPLE)?,
            digest: vocabulary_digest(&tokenizer),
            checkpoint,
            tokenizer,
            template,
            model: Some(lm),
            d_model,
        })
    }

    /// The model, to train it.
    pub(super) fn take(&mut self) -> Result<CausalLm> {
        self.model.take().context("the model is in use")
    }

    /// Gives the model back.
    pub(super) fn put(&mut self, model: CausalLm) {
        self.model = Some(model);
    }

    /// A new adapter that is trained, or that of a checkpoint; all others are frozen.
    pub(super) fn adapter(
        &self,
        lm: &mut CausalLm,
        recipe: &AlignRecipe,
        name: &str,
        from: Option<&Path>,
    ) -> Result<AdapterPass> {
        match from {
            Some(folder) => load_adapter(lm, name, folder)
                .with_context(|| format!("cannot load the adapter of {}", folder.display()))?,
            None => {
                let mut config = recipe.peft_config()?;
                let common = config.common_mut();
                common.inference_mode = false;
                common
                    .base_model_name_or_path
                    .get_or_insert_with(|| recipe.model.path.clone());
                inject(lm, name, &config, recipe.run.seed)?;
            }
        }
        set_trainable(lm, &[name])?;
        Ok(AdapterPass::one(name))
    }

    /// What turns records into ids.
    pub(super) fn encoder(&self, data: &DataSection) -> Result<Encoder> {
        let options = EncodeOptions {
            train_on: data.train_on,
            max_length: Some(data.max_length),
            truncation: data.truncation,
            append_eos: self.tokenizer.special().eos.is_some(),
            ..EncodeOptions::default()
        };
        let template = Some(self.template.clone());
        Ok(Encoder::new(self.tokenizer.clone(), template, options)?)
    }

    /// The prompts of a dataset of any kind, as ids that end where the assistant begins; longer ones
    /// than `limit` are left out.
    pub(super) fn prompts(&self, dataset: &mut Dataset, limit: usize) -> Result<Vec<Vec<u32>>> {
        let mut found = Vec::new();
        let mut long = 0;
        while let Some(sample) = dataset.next_sample() {
            let sample = sample?;
            let ids = match prompt(&sample.example) {
                Prompt::Turns([]) => continue,
                Prompt::Turns(messages) => {
                    text::encode_chat(&self.template, &self.tokenizer, messages)
                        .with_context(|| sample.at.to_string())?
                }
                Prompt::Text(text) => self.tokenizer.encode(text, true)?,
                Prompt::None => bail!("{}: a plain text has no prompt", sample.at),
            };
            if ids.len() > limit {
                long += 1;
            } else {
                found.push(ids);
            }
        }
        if found.is_empty() {
            bail!("no prompt has at most {limit} tokens (data.max_length less the completion)");
        }
        if long > 0 {
            super::log::note(&format!(
                "warning: {long} prompts are longer than {limit} tokens and were left out"
            ));
        }
        Ok(found)
    }
}

/// Loads an adapter, frozen, unless the model has one of this name.
pub(super) fn load_if_absent(lm: &mut CausalLm, name: &str, folder: &Path) -> Result<()> {
    if !lm.adapters().names().any(|known| known == name) {
        load_adapter(lm, name, folder)
            .with_context(|| format!("cannot load the adapter of {}", folder.display()))?;
        set_trainable(lm, &[])?;
    }
    Ok(())
}

/// What is to be continued.
enum Prompt<'a> {
    Turns(&'a [Message]),
    Text(&'a str),
    None,
}

fn prompt(example: &Example) -> Prompt<'_> {
    match example {
        Example::Chat { messages, .. } => {
            let last = messages.iter().rposition(|message| message.role == "user");
            Prompt::Turns(last.map_or(&[], |last| &messages[..=last]))
        }
        Example::Preference { prompt, .. }
        | Example::Judged { prompt, .. }
        | Example::Stepwise { prompt, .. } => Prompt::Turns(prompt),
        Example::Completion { prompt, .. } => Prompt::Text(prompt),
        Example::Text(_) | Example::Classified { .. } => Prompt::None,
    }
}

/// One side of a stage's data; none where nothing is held back.
pub(super) fn dataset(
    recipe: &AlignRecipe,
    data: &DataSection,
    side: Side,
) -> Result<Option<Dataset>> {
    let own = side == Side::Validation && !data.validation_sources.is_empty();
    if side == Side::Validation && data.validation == 0.0 && !own {
        return Ok(None);
    }
    let sources = if own {
        &data.validation_sources
    } else {
        &data.sources
    };
    let mut options = DatasetOptions::new(sources.iter().map(located).collect());
    options.seed = recipe.run.seed;
    options.on_invalid = data.on_invalid;
    options.hub = model::hub_folder().into_iter().collect();
    if data.validation != 0.0 && !own {
        options.split = Some(Split {
            validation: data.validation,
            seed: 0,
            // Answers to a question that was learned from are not held out.
            by: SplitBy::Prompt,
        });
        options.side = Some(side);
    }
    Ok(Some(Dataset::open(options)?))
}

/// The training side of a stage's data.
pub(super) fn training(recipe: &AlignRecipe, data: &DataSection) -> Result<Dataset> {
    dataset(recipe, data, Side::Train)
        .context("cannot read the training data")?
        .context("there is no training data")
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

/// Which examples make which step, from the beginning or from where a checkpoint left it.
pub(super) fn sampler(
    recipe: &AlignRecipe,
    lengths: &[usize],
    cursor: Option<&SamplerCursor>,
) -> Result<BatchSampler> {
    let optim = &recipe.optim;
    let options = SamplerOptions {
        batch_size: BatchSize::Examples(optim.batch_size),
        accumulation: optim.gradient_accumulation_steps,
        bucket: BUCKET_BATCHES.saturating_mul(optim.batch_size).max(1),
        seed: Some(recipe.run.seed),
    };
    Ok(match cursor {
        None => BatchSampler::new(lengths, options)?,
        Some(cursor) => BatchSampler::resume(lengths, options, cursor)?,
    })
}
