//! What must not change the result of a step.

use burn::module::Module;
use flametune_data::Step;
use flametune_lm::CausalLm;
use flametune_peft::{adapter_tensors, save_adapter};
use flametune_train::{Best, StepReport, TrainConfig, Trainer, checkpoint};
use serde_json::json;

use crate::run::{adapted, batch, config, even, step};

fn trainer(config: TrainConfig) -> Trainer {
    let (model, pass) = adapted(false, &json!({}));
    Trainer::new(model, pass, config, even()).unwrap()
}

/// The adapter's numbers as bits.
fn bits(model: &CausalLm) -> Vec<(String, Vec<u32>)> {
    let tensors = adapter_tensors(model, "default").unwrap();
    let bits = |data: burn::tensor::TensorData| {
        let values = data.try_to_vec::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    tensors
        .into_iter()
        .map(|(name, data)| (name, bits(data)))
        .collect()
}

fn close(a: &StepReport, b: &StepReport) {
    // The same sums of f32 in another grouping.
    assert!(
        (a.loss - b.loss).abs() < 1e-5 * b.loss,
        "{} != {}",
        a.loss,
        b.loss
    );
    let (got, expected) = (a.grad_norm, b.grad_norm);
    assert!(
        (got - expected).abs() < 1e-4 * expected,
        "{got} != {expected}"
    );
}

/// One batch of the rows of several.
fn joined(indices: &[usize]) -> Step {
    let mut whole = batch(indices[0]);
    let segments = |batch: &flametune_data::Batch| {
        batch
            .segment_ids
            .clone()
            .unwrap_or_else(|| vec![1; batch.input_ids.len()])
    };
    let mut all = segments(&whole);
    for &index in &indices[1..] {
        let more = batch(index);
        all.extend(segments(&more));
        whole.input_ids.extend(&more.input_ids);
        whole.labels.extend(&more.labels);
        whole.position_ids.extend(&more.position_ids);
        whole.lengths.extend(&more.lengths);
        whole.batch += more.batch;
        whole.num_supervised_tokens += more.num_supervised_tokens;
    }
    whole.segment_ids = Some(all);
    Step {
        num_supervised_tokens: whole.num_supervised_tokens,
        batches: vec![whole],
    }
}

#[test]
fn one_large_batch_equals_many_small_ones() {
    let (mut many, mut one) = (trainer(config()), trainer(config()));
    for first in [0, 4, 8] {
        let indices: Vec<usize> = (first..first + 4).collect();
        let parts = many.train_step(&step(&indices)).unwrap();
        let whole = one.train_step(&joined(&indices)).unwrap();
        close(&parts, &whole);
    }
}

#[test]
fn recompute_changes_nothing() {
    let recomputing = TrainConfig {
        recompute: true,
        neftune_noise_alpha: 5.0,
        ..config()
    };
    let keeping = TrainConfig {
        recompute: false,
        ..recomputing
    };
    let (mut a, mut b) = (trainer(recomputing), trainer(keeping));
    for index in 0..5 {
        let (again, kept) = (a.train_step(&step(&[index])), b.train_step(&step(&[index])));
        close(&again.unwrap(), &kept.unwrap());
    }
}

#[test]
fn noise_on_embeddings_changes_the_loss_a_little() {
    let noisy = TrainConfig {
        neftune_noise_alpha: 5.0,
        ..config()
    };
    let with = trainer(noisy).train_step(&step(&[0])).unwrap().loss;
    let without = trainer(config()).train_step(&step(&[0])).unwrap().loss;
    assert!(with != without);
    assert!(
        (with - without).abs() < 0.2 * without,
        "{with} and {without}"
    );
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let dropout = json!({"lora_dropout": 0.2});
    let start = || {
        let (model, pass) = adapted(false, &dropout);
        Trainer::new(model, pass, config(), even()).unwrap()
    };
    let mut unbroken = start();
    for index in 0..6 {
        unbroken.train_step(&step(&[index])).unwrap();
    }

    let mut broken = start();
    for index in 0..3 {
        broken.train_step(&step(&[index])).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let cursor = cursor();
    let save = |path: &std::path::Path| Ok(save_adapter(broken.model(), "default", path)?);
    let saved = checkpoint::save(folder.path(), &broken, &cursor, &Best::default(), &save).unwrap();
    drop(broken);

    let mut model = crate::run::base(false);
    flametune_peft::load_adapter(&mut model, "default", &saved).unwrap();
    flametune_peft::set_trainable(&mut model, &["default"]).unwrap();
    let pass = flametune_peft::AdapterPass::one("default");
    let mut resumed = Trainer::new(model, pass, config(), even()).unwrap();
    let state = checkpoint::resume(&mut resumed, &saved).unwrap();
    assert_eq!((state.step, &state.cursor), (3, &cursor));
    for index in 3..6 {
        resumed.train_step(&step(&[index])).unwrap();
    }
    assert!(bits(unbroken.model()) == bits(resumed.model()));
}

fn cursor() -> flametune_data::SamplerCursor {
    let options = flametune_data::SamplerOptions::default();
    flametune_data::BatchSampler::new(&[3, 4, 5], options)
        .unwrap()
        .cursor()
}

#[test]
fn another_configuration_cannot_resume() {
    let folder = tempfile::tempdir().unwrap();
    let first = trainer(config());
    let save = |path: &std::path::Path| Ok(save_adapter(first.model(), "default", path)?);
    let saved =
        checkpoint::save(folder.path(), &first, &cursor(), &Best::default(), &save).unwrap();
    let mut other = trainer(TrainConfig {
        learning_rate: 0.1,
        ..config()
    });
    let error = checkpoint::resume(&mut other, &saved)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`learning_rate` is another one"), "{error}");
}

#[test]
fn the_frozen_base_is_left_alone() {
    let mut trainer = trainer(config());
    let before = trainer.model().valid().named_tensors().unwrap();
    trainer.train_step(&step(&[0])).unwrap();
    trainer.train_step(&step(&[1])).unwrap();
    let after = trainer.model().valid().named_tensors().unwrap();
    assert!(before.len() > 10);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.data(), after.data(), "{}", before.name);
    }
}

#[test]
fn evaluation_is_the_loss_before_a_step() {
    let mut trainer = trainer(config());
    let step = step(&[0, 1]);
    let evaluated = trainer.evaluate(&step.batches).unwrap();
    let trained = trainer.train_step(&step).unwrap();
    assert_eq!(evaluated.supervised_tokens, trained.supervised_tokens);
    assert!((evaluated.loss - trained.loss).abs() < 1e-5 * trained.loss);
    assert!((evaluated.perplexity() - evaluated.loss.exp()).abs() < 1e-9);
}
