//! Raises a known reward on a tiny model with random weights, in a few seconds.
//!
//! ```text
//! cargo run -p flametune-align --example tiny_alignment -- fixtures/training/base
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use flametune_align::online::{
    Method, Online, OnlineFeed, OnlineOptions, Policy, PpoOptions, Prompts, RolloutOptions,
};
use flametune_align::rewards::{FunctionReward, RewardSum, Sample};
use flametune_data::Collator;
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{LoraConfig, TargetModules, inject};
use flametune_train::fit::{FitHooks, FitObserver, FitOptions, fit};
use flametune_train::optim::groups;
use flametune_train::{Best, Schedule, StepReport, TrainConfig, Trainer};

/// Prints what every iteration came to.
struct Printer;

impl FitObserver for Printer {
    fn on_step(&mut self, report: &StepReport) -> flametune_train::Result<()> {
        if let (Some(score), Some(kl)) = (
            report.metrics.get("objective/scores"),
            report.metrics.get("objective/kl"),
        ) {
            println!("step {:3}: score {score:.3}, KL {kl:.2}", report.step);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let own = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/training/base"
    ));
    let folder = std::env::args_os().nth(1).map_or(own, PathBuf::from);
    let options = LoadOptions::f32(&Device::flex().autodiff());
    let mut lm = CausalLm::load(&Checkpoint::open(folder)?, &options, &mut |_| {})?;
    let lora = LoraConfig {
        r: 8,
        target_modules: Some(TargetModules::AllLinear),
        ..LoraConfig::default()
    };
    inject(&mut lm, "policy", &lora.into(), 0)?;
    let pass = AdapterPass::one("policy");

    // Every fourth token is good: a policy that knows nothing scores 0.25.
    let good = FunctionReward::new("good", |sample: &Sample<'_>| {
        let good = sample.completion.iter().filter(|id| **id % 4 == 0).count();
        Ok(good as f32 / sample.completion.len() as f32)
    });
    let options = OnlineOptions {
        rollout: RolloutOptions {
            prompts: 8,
            num_generations: 4,
            max_completion_length: 8,
            batch_size: 32,
        },
        kl_coef: 0.005,
        num_epochs: 2,
        micro_batch_size: 16,
        ..OnlineOptions::new(Method::Ppo(PpoOptions::default()))
    };
    let prompts: Vec<Vec<u32>> = (0..16).map(|n| vec![10 + n, 20 + n]).collect();
    let prompts = Prompts {
        ids: &prompts,
        stop_token_ids: &[],
        tokenizer: None,
    };
    let shape = (Collator::new(0, 1)?, lm.max_position_embeddings(), 0);
    let feed = OnlineFeed::new(
        prompts,
        RewardSum::of(good),
        options.clone(),
        pass.clone(),
        shape,
    )?;
    let config = TrainConfig {
        learning_rate: 1e-2,
        schedule: Schedule::Constant,
        max_steps: 60,
        ..TrainConfig::default()
    };
    let objective = Online {
        pass,
        options,
        recompute: false,
    };
    let policy = Policy::with_value(lm, 64);
    let mut trainer = Trainer::new(policy, objective, config, groups(0.0, 1.0))?;
    let mut hooks = FitHooks {
        save_model: &|_: &Policy, _| Ok(()),
        sample: None,
        stop: &AtomicBool::new(false),
        observer: &mut Printer,
    };
    fit(
        &mut trainer,
        feed,
        &FitOptions::default(),
        Best::default(),
        &mut hooks,
    )?;
    Ok(())
}
