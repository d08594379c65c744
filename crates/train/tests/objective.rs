//! A run with a loss, a model and a state of its own: a reward model beside an adapter.

use std::fs;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation};
use flametune_lm::{CausalLm, TokenBatch};
use flametune_peft::{AdapterPass, load_adapter, save_adapter, set_trainable};
use flametune_train::checkpoint::{self, TrainerState};
use flametune_train::optim::GradientSum;
use flametune_train::{
    Backprop, BatchLoss, Best, Error, Extent, MicroStep, Objective, Result, TrainConfig, Trainer,
};
use serde_json::{Value, json};

use crate::run::{adapted, base, config, even};
use crate::step::{bits, close, cursor};

/// A language model with a reward head.
#[derive(Module, Debug)]
struct Scored {
    lm: CausalLm,
    score: Param<Tensor<1>>,
}

impl Scored {
    fn new(lm: CausalLm, score: Vec<f32>) -> Self {
        let len = score.len();
        let score = Tensor::from_data(TensorData::new(score, [len]), &lm.device());
        Self {
            lm,
            score: Param::from_tensor(score),
        }
    }

    /// The reward of each row, of the sum of its hidden states.
    fn rewards(&self, hidden: Tensor<3>) -> Tensor<1> {
        let [batch, _, width] = hidden.dims();
        let score = self.score.val().reshape([1, width]);
        let sums = hidden.sum_dim(1).reshape([batch, width]);
        (sums * score).sum_dim(1).squeeze_dim::<1>(1)
    }

    fn score(&self) -> Vec<f32> {
        self.score.val().into_data().try_to_vec().unwrap()
    }
}

/// `Σ −ln σ(beta·(r_preferred − r_other))`.
#[derive(Debug, Clone)]
struct Ranking {
    pass: AdapterPass,
    recompute: bool,
    beta: f64,
}

impl Ranking {
    fn loss(&self, rewards: Tensor<1>) -> Tensor<1> {
        let pairs = rewards.dims()[0] / 2;
        let margin = rewards.clone().narrow(0, 0, pairs) - rewards.narrow(0, pairs, pairs);
        activation::log_sigmoid(margin * self.beta).sum().neg()
    }
}

impl Objective for Ranking {
    type Model = Scored;
    type Batch = TokenBatch;

    fn extent(&self, batch: &TokenBatch) -> Extent {
        Extent {
            tokens: batch.batch() * batch.seq(),
            supervised_tokens: 0,
            weight: (batch.batch() / 2) as f64,
        }
    }

    fn accumulate(
        &self,
        model: &Scored,
        batch: &TokenBatch,
        at: &MicroStep,
        gradients: &mut GradientSum,
    ) -> Result<BatchLoss> {
        let pass = at.dropout(&self.pass);
        let forward = Backprop {
            recompute: self.recompute,
            ..Backprop::new(&model.lm, batch, &pass)
        };
        let mut right = 0.0;
        let loss = forward.run(model, at, gradients, |hidden| {
            let rewards = model.rewards(hidden);
            let values: Vec<f32> = rewards.clone().inner().into_data().try_to_vec().unwrap();
            let (preferred, others) = values.split_at(values.len() / 2);
            let pairs = preferred.iter().zip(others);
            right = pairs.filter(|(a, b)| a > b).count() as f64;
            Ok(self.loss(rewards))
        })?;
        Ok(BatchLoss::new(loss).with("accuracy", right, self.extent(batch).weight))
    }

    fn evaluate(&self, model: &Scored, batch: &TokenBatch) -> Result<BatchLoss> {
        let hidden = model.lm.forward(batch, None, &self.pass)?;
        let loss = self.loss(model.rewards(hidden)).into_scalar::<f32>();
        Ok(BatchLoss::new(loss.into()))
    }

    fn settings(&self) -> Value {
        json!({ "recompute": self.recompute })
    }

    fn state(&self) -> Value {
        json!(self.beta)
    }

    fn restore(&mut self, state: Value) -> Result<()> {
        self.beta = state.as_f64().unwrap();
        Ok(())
    }
}

fn trainer_of(lm: CausalLm, score: Vec<f32>, recompute: bool) -> Trainer<Ranking> {
    let objective = Ranking {
        pass: AdapterPass::one("default"),
        recompute,
        beta: 0.5,
    };
    Trainer::new(Scored::new(lm, score), objective, config(), even()).unwrap()
}

fn start() -> Vec<f32> {
    (0..64_u8)
        .map(|place| f32::from(place % 7) * 0.02 - 0.05)
        .collect()
}

fn trainer(recompute: bool) -> Trainer<Ranking> {
    let (lm, _) = adapted(false, &json!({"lora_dropout": 0.2}));
    trainer_of(lm, start(), recompute)
}

/// Pairs number `first..first + count`.
fn pairs(first: u32, count: u32) -> TokenBatch {
    let row = |pair: u32, other: u32| -> Vec<u32> {
        (0..6)
            .map(|t| (pair * 37 + other * 101 + t * (11 + pair)) % 300)
            .collect()
    };
    let pairs = first..first + count;
    let preferred = pairs.clone().map(|pair| row(pair, 0));
    let rows: Vec<Vec<u32>> = preferred.chain(pairs.map(|pair| row(pair, 1))).collect();
    TokenBatch::from_rows(&rows).unwrap()
}

#[test]
fn a_step_of_pairs_is_the_same_however_it_is_cut() {
    let without_dropout = || {
        let (lm, _) = adapted(false, &json!({}));
        trainer_of(lm, start(), false)
    };
    let (mut whole, mut parts) = (without_dropout(), without_dropout());
    for first in [0, 4, 8] {
        let whole = whole.train_step(&[pairs(first, 4)]).unwrap();
        let cut = [pairs(first, 1), pairs(first + 1, 2), pairs(first + 3, 1)];
        let parts = parts.train_step(&cut).unwrap();
        close(&whole, &parts);
        assert_eq!(whole.metrics, parts.metrics);
        assert_eq!((whole.tokens, parts.tokens), (48, 48));
    }
}

#[test]
fn a_head_beside_the_model_is_trained_with_layers_computed_again() {
    let (mut kept, mut again) = (trainer(false), trainer(true));
    let batches = [pairs(0, 2), pairs(2, 2)];
    let before = kept.evaluate(&batches).unwrap().loss;
    for _ in 0..12 {
        let (kept, again) = (kept.train_step(&batches), again.train_step(&batches));
        close(&kept.unwrap(), &again.unwrap());
    }
    assert_ne!(kept.model().score(), start());
    let after = kept.evaluate(&batches).unwrap().loss;
    assert!(after < 0.5 * before, "{after} after {before}");
}

/// The head's gradient by the formula: `Σ −σ(−β·m)·β·(h_preferred − h_other)`.
#[test]
fn the_gradient_of_a_head_is_that_of_the_formula() {
    let (lm, pass) = adapted(false, &json!({}));
    let trainer = trainer_of(lm, start(), false);
    let (model, objective) = (trainer.model(), trainer.objective());
    let (batch, at) = (pairs(0, 1), MicroStep::new(1, 0, 0));
    let mut gradients = GradientSum::new();
    objective
        .accumulate(model, &batch, &at, &mut gradients)
        .unwrap();
    let plain = model.valid();
    let hidden = plain.lm.forward(&batch, None, &pass).unwrap();
    let rewards: Vec<f32> = plain
        .rewards(hidden.clone())
        .into_data()
        .try_to_vec()
        .unwrap();
    let sums: Vec<f32> = hidden.sum_dim(1).into_data().try_to_vec().unwrap();
    let margin = 0.5 * (rewards[0] - rewards[1]);
    let factor = -0.5 / (1.0 + margin.exp());
    let expected: Vec<f32> = (0..64)
        .map(|place| factor * (sums[place] - sums[place + 64]))
        .collect();
    let got = gradients.get(model.score.id).unwrap();
    for (got, expected) in got.iter().zip(&expected) {
        // Products and sums of six f32 in another order.
        assert!((got - expected).abs() < 1e-5, "{got} != {expected}");
    }
}

fn save(model: &Scored, folder: &Path) -> Result<()> {
    save_adapter(&model.lm, "default", folder)?;
    let text = serde_json::to_vec(&model.score()).unwrap();
    fs::write(folder.join("score.json"), text).unwrap();
    Ok(())
}

fn resumed(saved: &Path) -> Trainer<Ranking> {
    let mut lm = base(false);
    load_adapter(&mut lm, "default", saved).unwrap();
    set_trainable(&mut lm, &["default"]).unwrap();
    let score = serde_json::from_slice(&fs::read(saved.join("score.json")).unwrap()).unwrap();
    trainer_of(lm, score, false)
}

#[test]
fn a_run_with_its_own_objective_resumes_to_the_same_bits() {
    let step = |trainer: &mut Trainer<Ranking>, index: u32| {
        trainer.train_step(&[pairs(index, 2)]).unwrap();
        trainer.objective_mut().beta *= 0.9;
    };
    let mut unbroken = trainer(false);
    (0..6).for_each(|index| step(&mut unbroken, index));

    let mut broken = trainer(false);
    (0..3).for_each(|index| step(&mut broken, index));
    let folder = tempfile::tempdir().unwrap();
    let write = |folder: &Path| save(broken.model(), folder);
    let saved =
        checkpoint::save(folder.path(), &broken, &cursor(), &Best::default(), &write).unwrap();
    let mut resumed = resumed(&saved);
    let state: TrainerState = checkpoint::resume(&mut resumed, &saved).unwrap();
    assert_eq!(state.objective_state, json!(broken.objective().beta));
    (3..6).for_each(|index| step(&mut resumed, index));
    assert!(bits(&unbroken.model().lm) == bits(&resumed.model().lm));
    assert!(unbroken.model().score() == resumed.model().score());
}

#[test]
fn another_objective_cannot_resume() {
    let first = trainer(false);
    let folder = tempfile::tempdir().unwrap();
    let write = |folder: &Path| save(first.model(), folder);
    let saved =
        checkpoint::save(folder.path(), &first, &cursor(), &Best::default(), &write).unwrap();
    let error = checkpoint::resume::<_, Value>(&mut trainer(true), &saved).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`recompute` is another one"), "{text}");
}

#[test]
fn what_weighs_nothing_and_what_trains_nothing_is_refused() {
    let error = trainer(false).train_step(&[]).unwrap_err();
    assert!(matches!(error, Error::NothingToTrain), "{error}");
    let (lm, pass) = adapted(false, &json!({}));
    let objective = Ranking {
        pass,
        recompute: false,
        beta: 0.5,
    };
    let frozen = Scored::new(lm, start()).valid();
    let error = Trainer::new(frozen, objective, TrainConfig::default(), even()).unwrap_err();
    assert!(matches!(error, Error::NothingToTrain), "{error}");
}
