//! A tiny model in training, and runs of it.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use flametune_align::online::{Online, OnlineFeed, OnlineOptions, Policy, Prompts};
use flametune_align::rewards::RewardSum;
use flametune_data::{
    ChatTemplate, Collator, Dataset, DatasetOptions, EncodeOptions, Encoder, SourceOptions,
    Tokenizer, Truncation,
};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{LoraConfig, TargetModules, inject};
use flametune_testkit::fixture_path;
use flametune_train::fit::{FitHooks, FitObserver, FitOptions, FitReport, fit};
use flametune_train::optim::{Rule, groups};
use flametune_train::{Best, Schedule, StepReport, TrainConfig, Trainer, Warmup};

/// The width of its hidden states.
pub(crate) const D_MODEL: usize = 64;

/// Most tokens of its context.
pub(crate) const CONTEXT: usize = 128;

pub(crate) fn collator() -> Collator {
    Collator::new(3, 1).unwrap()
}

/// The base with a LoRA adapter on every linear layer, on a device with autodiff.
pub(crate) fn model(r: usize, name: &str) -> (CausalLm, AdapterPass) {
    let checkpoint = Checkpoint::open(fixture_path("training/base")).unwrap();
    let options = LoadOptions::f32(&Device::flex().autodiff());
    let mut model = CausalLm::load(&checkpoint, &options, &mut |_| {}).unwrap();
    add_adapter(&mut model, r, name);
    (model, AdapterPass::one(name))
}

pub(crate) fn add_adapter(model: &mut CausalLm, r: usize, name: &str) {
    let config = LoraConfig {
        r,
        lora_alpha: 2.0 * r as f64,
        target_modules: Some(TargetModules::AllLinear),
        ..LoraConfig::default()
    };
    inject(model, name, &config.into(), 7).unwrap();
}

/// The base with an adapter on the head as well, which can favour any class of tokens.
fn with_head(name: &str) -> (CausalLm, AdapterPass) {
    let (mut model, _) = model(8, "unused");
    flametune_peft::remove(&mut model, "unused").unwrap();
    let targets = ["q_proj", "v_proj", "o_proj", "down_proj", "lm_head"];
    let config = LoraConfig {
        r: 8,
        lora_alpha: 16.0,
        target_modules: Some(TargetModules::list(targets)),
        ..LoraConfig::default()
    };
    inject(&mut model, name, &config.into(), 7).unwrap();
    (model, AdapterPass::one(name))
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::from_folder(&fixture_path("chat/tokenizer")).unwrap()
}

pub(crate) fn encoder(max_length: usize) -> Encoder {
    let template = ChatTemplate::builtin("chatml").unwrap();
    let options = EncodeOptions {
        max_length: Some(max_length),
        truncation: Truncation::Right,
        ..EncodeOptions::default()
    };
    Encoder::new(tokenizer(), Some(template), options).unwrap()
}

/// A dataset of these lines of JSON.
pub(crate) fn dataset(folder: &Path, lines: &[String]) -> Dataset {
    let path = folder.join("data.jsonl");
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let source = SourceOptions::new(path.to_str().unwrap());
    Dataset::open(DatasetOptions::new(vec![source])).unwrap()
}

pub(crate) fn config(max_steps: usize, learning_rate: f64) -> TrainConfig {
    TrainConfig {
        learning_rate,
        schedule: Schedule::Constant,
        warmup: Warmup::Steps(0),
        max_steps,
        rule: Rule::default(),
        weight_decay: 0.0,
        max_grad_norm: Some(1.0),
        ..TrainConfig::default()
    }
}

/// Keeps every step's report.
#[derive(Debug, Default)]
pub(crate) struct Steps(pub(crate) Vec<StepReport>);

impl FitObserver for Steps {
    fn on_step(&mut self, report: &StepReport) -> flametune_train::Result<()> {
        self.0.push(report.clone());
        Ok(())
    }
}

/// The mean of a logged number over some of the steps that have it.
pub(crate) fn mean(steps: &[StepReport], name: &str) -> f64 {
    let found: Vec<f64> = steps
        .iter()
        .filter_map(|step| step.metrics.get(name).copied())
        .collect();
    assert!(!found.is_empty(), "nothing is logged as {name}");
    found.iter().sum::<f64>() / found.len() as f64
}

/// Prompts for a model that knows nothing.
pub(crate) fn prompts(count: u32) -> Vec<Vec<u32>> {
    (0..count).map(|n| vec![10 + n, 20 + n, 30 + n]).collect()
}

/// An online run without files.
pub(crate) fn learn(
    options: &OnlineOptions,
    rewards: RewardSum<'_>,
    iterations: usize,
    learning_rate: f64,
) -> (Vec<StepReport>, Policy) {
    let (lm, pass) = with_head("policy");
    let policy = match options.method.has_value() {
        true => Policy::with_value(lm, D_MODEL),
        false => Policy::without_value(lm),
    };
    let steps = iterations * options.steps_per_iteration();
    let objective = Online {
        pass: pass.clone(),
        options: options.clone(),
        recompute: false,
    };
    let config = config(steps, learning_rate);
    let mut trainer = Trainer::new(policy, objective, config, groups(0.0, 1.0)).unwrap();
    let ids = prompts(16);
    let prompts = Prompts {
        ids: &ids,
        stop_token_ids: &[],
        tokenizer: None,
    };
    let shape = (collator(), CONTEXT, 5);
    let feed = OnlineFeed::new(prompts, rewards, options.clone(), pass, shape).unwrap();
    let mut observer = Steps::default();
    run(
        &mut trainer,
        feed,
        &FitOptions::default(),
        &mut observer,
        &|_, _| Ok(()),
    )
    .unwrap();
    (observer.0, trainer.into_model())
}

/// Calls `fit` from the beginning.
pub(crate) fn run<O, F>(
    trainer: &mut Trainer<O>,
    feed: F,
    options: &FitOptions,
    observer: &mut dyn FitObserver,
    save_model: &dyn Fn(&O::Model, &Path) -> flametune_train::Result<()>,
) -> flametune_train::Result<FitReport>
where
    O: flametune_train::Objective,
    F: flametune_train::fit::Feed<O>,
{
    let stop = AtomicBool::new(false);
    let mut hooks = FitHooks {
        save_model,
        sample: None,
        stop: &stop,
        observer,
    };
    fit(trainer, feed, options, Best::default(), &mut hooks)
}
