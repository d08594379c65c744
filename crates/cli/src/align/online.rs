//! Learning from rewards of one's own answers, as a stage.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use flametune_align::ScalarHead;
use flametune_align::online::{Online, OnlineCursor, OnlineFeed, Policy, Prompts};
use flametune_align::rewards::{JudgeReward, ModelReward, RewardSum, RuleReward, Sample};
use flametune_data::Message;
use flametune_lm::{AdapterPass, CausalLm};
use flametune_peft::save_adapter;
use flametune_train::checkpoint::TrainerState;
use flametune_train::optim::groups;
use flametune_train::{Best, Trainer, checkpoint};

use super::folder::{RunFolder, StageFolder};
use super::log::note;
use super::recipe::{AlignRecipe, OnlineSection, STAGE};
use super::setup::{Workbench, load_if_absent, training};
use super::stage::train;
use super::{reward, sft};
use crate::adapter::NAME;
use crate::{model, text};

/// The folder that a stage's adapter begins from: its own checkpoint, else that of fine-tuning.
pub(super) fn begin_of(recipe: &AlignRecipe, resumed: &Option<PathBuf>) -> Option<PathBuf> {
    let fine_tuned = recipe
        .sft
        .is_some()
        .then(|| Path::new(&recipe.run.output).join("sft").join("adapter"));
    resumed.clone().or(fine_tuned)
}

pub(super) fn run(
    recipe: &AlignRecipe,
    bench: &mut Workbench,
    run: &RunFolder,
    folder: &StageFolder,
    stop: &AtomicBool,
) -> Result<bool> {
    let Some(section) = &recipe.online else {
        return Ok(true);
    };
    let data = recipe.data_of(&section.own);
    let room = section.options.rollout.max_completion_length;
    let limit = data.max_length.saturating_sub(room);
    let ids = bench.prompts(&mut training(recipe, data)?, limit)?;
    note(&format!("{} prompts", ids.len()));
    let mut lm = bench.take()?;
    let rewards = rewards(section, bench, run, &mut lm)?;
    let resumed = folder.resumed()?;
    let begin = begin_of(recipe, &resumed);
    let reference = match recipe.sft.is_some() {
        true => {
            load_if_absent(&mut lm, sft::ADAPTER, &run.stage("sft").result())?;
            AdapterPass::one(sft::ADAPTER)
        }
        false => AdapterPass::default(),
    };
    let pass = bench.adapter(&mut lm, recipe, NAME, begin.as_deref())?;
    let value = match (section.options.method.has_value(), &resumed) {
        (false, _) => None,
        (true, None) => Some(ScalarHead::zeros(bench.d_model, &lm.device())),
        (true, Some(at)) => {
            let digest = Some(bench.digest.as_str());
            Some(ScalarHead::load(at, bench.d_model, digest, &lm.device())?)
        }
    };
    let context = lm.max_position_embeddings();
    let objective = Online {
        pass: pass.clone(),
        options: section.options.clone(),
        recompute: recipe.optim.recompute,
    };
    let stop_token_ids = bench.tokenizer.special().eos_ids.clone();
    let prompts = Prompts {
        ids: &ids,
        stop_token_ids: &stop_token_ids,
        tokenizer: Some(&bench.tokenizer),
    };
    let options = section.options.clone();
    let shape = (bench.collator, context, recipe.run.seed);
    let mut feed = OnlineFeed::new(prompts, rewards, options, pass, shape)?;
    feed = feed.with_reference(reference);
    let iterations = ids.len().div_ceil(section.options.rollout.prompts);
    let steps = iterations * section.options.steps_per_iteration();
    let config = recipe.train_config(&section.own, steps)?;
    let grouping = groups(recipe.optim.weight_decay, recipe.optim.loraplus_lr_ratio);
    let mut trainer = Trainer::new(Policy { lm, value }, objective, config, grouping)?;
    let mut best = Best::default();
    if let Some(at) = &resumed {
        let state: TrainerState<OnlineCursor> = checkpoint::resume(&mut trainer, at)?;
        feed = feed.resume(state.cursor);
        best = state.best;
    }
    let digest = bench.digest.clone();
    let save = |policy: &Policy, to: &Path| {
        save_adapter(&policy.lm, NAME, to)?;
        if let Some(value) = &policy.value {
            value.save(to, Some(&digest))?;
        }
        Ok(())
    };
    let finished = train(recipe, folder, &mut trainer, (feed, best), stop, &save)?;
    bench.put(trainer.into_model().lm);
    Ok(finished)
}

/// The rewards of a stage; adapters of reward models are loaded into the shared model.
fn rewards<'a>(
    section: &'a OnlineSection,
    bench: &'a Workbench,
    run: &RunFolder,
    lm: &mut CausalLm,
) -> Result<RewardSum<'a>> {
    let mut sum = RewardSum::default();
    for (index, term) in section.rewards.iter().enumerate() {
        if let Some(rule) = &term.rule {
            sum = sum.with(RuleReward::new(rule.clone()), term.weight);
        } else if let Some(path) = &term.model {
            let (name, folder) = match path == STAGE {
                true => (
                    reward::ADAPTER.to_owned(),
                    run.stage("reward_model").result(),
                ),
                false => (format!("reward_{index}"), model::locate(path)?),
            };
            load_if_absent(lm, &name, &folder)?;
            let digest = Some(bench.digest.as_str());
            let head = ScalarHead::load(&folder, bench.d_model, digest, &lm.device())
                .with_context(|| format!("{path} is no reward model of this base"))?;
            let reward = ModelReward {
                pass: AdapterPass::one(name),
                head: head.valid(),
                collator: bench.collator,
                batch_size: section.options.micro_batch_size,
            };
            sum = sum.with(reward, term.weight);
        } else if let Some(question) = &term.judge {
            sum = sum.with(judge(question, bench)?, term.weight);
        }
    }
    Ok(sum)
}

type Question<'a> = Box<dyn Fn(&Sample<'_>) -> flametune_align::Result<Vec<u32>> + 'a>;

/// The base as a judge of answers.
fn judge<'a>(question: &'a str, bench: &'a Workbench) -> Result<JudgeReward<Question<'a>>> {
    let first = |word: &str| match bench.tokenizer.encode(word, false)?.first() {
        Some(id) => Ok(*id),
        None => bail!("the tokenizer has no token for {word:?}"),
    };
    let ask = move |sample: &Sample<'_>| {
        let asked = question
            .replace("{prompt}", sample.prompt_text.unwrap_or_default())
            .replace("{answer}", sample.text.unwrap_or_default());
        let messages = [Message::user(asked)];
        text::encode_chat(&bench.template, &bench.tokenizer, &messages).map_err(|error| {
            flametune_align::Error::Reward {
                reward: "judge".to_owned(),
                source: error.into(),
            }
        })
    };
    Ok(JudgeReward {
        pass: AdapterPass::default(),
        question: Box::new(ask),
        answers: (first("Yes")?, first("No")?),
    })
}
