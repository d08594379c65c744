//! A run that is killed and resumed ends with the same bytes as an unbroken one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use flametune_align::ScalarHead;
use flametune_align::online::{
    Method, Online, OnlineCursor, OnlineFeed, OnlineOptions, Policy, PpoOptions, Prompts,
    RolloutOptions,
};
use flametune_align::rewards::{RewardSum, Rule, RuleReward};
use flametune_align::{KlControl, KlEstimator};
use flametune_peft::{load_adapter, save_adapter, set_trainable};
use flametune_train::checkpoint::TrainerState;
use flametune_train::fit::{Checkpoints, FitHooks, FitObserver, FitOptions, fit};
use flametune_train::optim::groups;
use flametune_train::{Best, StepReport, Trainer, checkpoint};

use crate::tiny::{CONTEXT, D_MODEL, Steps, collator, config, model, prompts};

fn options() -> OnlineOptions {
    OnlineOptions {
        rollout: RolloutOptions {
            prompts: 4,
            num_generations: 2,
            max_completion_length: 5,
            batch_size: 8,
        },
        kl_coef: 0.05,
        kl_estimator: KlEstimator::K1,
        kl_control: KlControl::Adaptive {
            target: 0.01,
            horizon: 50.0,
        },
        num_epochs: 2,
        num_mini_batches: 2,
        target_kl: 5.0,
        ..OnlineOptions::new(Method::Ppo(PpoOptions::default()))
    }
}

/// Stops after a step, as a kill between two steps does.
struct StopAfter<'a> {
    step: usize,
    stop: &'a AtomicBool,
    steps: Steps,
}

impl FitObserver for StopAfter<'_> {
    fn on_step(&mut self, report: &StepReport) -> flametune_train::Result<()> {
        if report.step == self.step {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.steps.on_step(report)
    }
}

fn save(policy: &Policy, to: &Path) -> flametune_train::Result<()> {
    save_adapter(&policy.lm, "policy", to)?;
    policy.value.as_ref().unwrap().save(to, None)?;
    Ok(())
}

/// Trains to step 10, or until `stop_after`; goes on from the last checkpoint of `folder`.
fn train(folder: &Path, stop_after: usize) -> (Policy, Vec<StepReport>) {
    let found = checkpoint::list(folder).unwrap().into_iter().next_back();
    let (mut lm, pass) = model(4, "policy");
    let mut head = ScalarHead::zeros(D_MODEL, &lm.device());
    if let Some((_, at)) = &found {
        flametune_peft::remove(&mut lm, "policy").unwrap();
        load_adapter(&mut lm, "policy", at).unwrap();
        set_trainable(&mut lm, &["policy"]).unwrap();
        head = ScalarHead::load(at, D_MODEL, None, &lm.device()).unwrap();
    }
    let policy = Policy {
        lm,
        value: Some(head),
    };
    let objective = Online {
        pass: pass.clone(),
        options: options(),
        recompute: false,
    };
    let mut trainer = Trainer::new(policy, objective, config(10, 1e-2), groups(0.0, 1.0)).unwrap();
    let ids = prompts(6);
    let prompts = Prompts {
        ids: &ids,
        stop_token_ids: &[7, 8, 9],
        tokenizer: None,
    };
    let rewards = RewardSum::of(RuleReward::new(Rule::TokenShare {
        ids: (0..150).collect(),
    }));
    let shape = (collator(), CONTEXT, 3);
    let mut feed = OnlineFeed::new(prompts, rewards, options(), pass, shape).unwrap();
    let mut best = Best::default();
    if let Some((_, at)) = &found {
        let state: TrainerState<OnlineCursor> = checkpoint::resume(&mut trainer, at).unwrap();
        feed = feed.resume(state.cursor);
        best = state.best;
    }
    let stop = AtomicBool::new(false);
    let mut observer = StopAfter {
        step: stop_after,
        stop: &stop,
        steps: Steps::default(),
    };
    let fit_options = FitOptions {
        checkpoints: Some(Checkpoints {
            folder: folder.to_owned(),
            save_steps: None,
            keep: 3,
        }),
        ..FitOptions::default()
    };
    let mut hooks = FitHooks {
        save_model: &save,
        sample: None,
        stop: &stop,
        observer: &mut observer,
    };
    fit(&mut trainer, feed, &fit_options, best, &mut hooks).unwrap();
    (trainer.into_model(), observer.steps.0)
}

#[test]
fn a_killed_ppo_run_resumes_exactly() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (expected, steps) = train(whole.path(), usize::MAX);
    // Step 6 is within an iteration: some of its completions are yet to be learned from.
    let (_, first) = train(broken.path(), 6);
    let (found, rest) = train(broken.path(), usize::MAX);
    assert_eq!((steps.len(), first.len(), rest.len()), (10, 6, 4));
    let tail = |steps: &[StepReport]| -> Vec<(f64, f64)> {
        steps
            .iter()
            .map(|step| (step.loss, step.grad_norm))
            .collect()
    };
    assert_eq!(tail(&first), tail(&steps[..6]));
    assert_eq!(tail(&rest), tail(&steps[6..]));
    let files = [&expected, &found].map(|policy| {
        let folder = tempfile::tempdir().unwrap();
        save(policy, folder.path()).unwrap();
        ["adapter_model.safetensors", "value_head.safetensors"]
            .map(|name| std::fs::read(folder.path().join(name)).unwrap())
    });
    assert!(files[0] == files[1], "the bytes of adapter and head");
}
