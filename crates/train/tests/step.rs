//! What must not change the result of a step.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use flametune_data::{Batch, Collator, EncodedExample, Row, SamplerCursor};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{AdapterPass, adapter_tensors, save_adapter};
use flametune_testkit::fixture_path;
use flametune_train::checkpoint::{self, TrainerState};
use flametune_train::optim::groups;
use flametune_train::{Best, Grouping, Sft, SftOptions, StepReport, TrainConfig, Trainer};
use serde_json::json;

use crate::run::{adapted, batch, config, even, step};

fn trainer(config: TrainConfig) -> Trainer {
    with_options(config, SftOptions::default())
}

fn with_options(config: TrainConfig, options: SftOptions) -> Trainer {
    let (model, pass) = adapted(false, &json!({}));
    Trainer::new(model, Sft { pass, options }, config, even()).unwrap()
}

/// The adapter's numbers as bits.
pub(crate) fn bits(model: &CausalLm) -> Vec<(String, Vec<u32>)> {
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

pub(crate) fn close(a: &StepReport, b: &StepReport) {
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
fn joined(indices: &[usize]) -> Vec<Batch> {
    let mut whole = batch(indices[0]);
    let segments = |batch: &Batch| {
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
    vec![whole]
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

/// The rows of a golden batch as examples, without their padding.
fn examples(batch: &Batch) -> Vec<EncodedExample> {
    let rows = batch.input_ids.chunks(batch.seq);
    let rows = rows.zip(batch.labels.chunks(batch.seq));
    rows.zip(&batch.lengths)
        .map(|((ids, labels), &len)| EncodedExample {
            input_ids: ids[..len].to_vec(),
            labels: labels[..len].to_vec(),
        })
        .collect()
}

#[test]
fn packed_rows_equal_rows_of_their_own() {
    let collator = Collator::new(3, 1).unwrap();
    for recompute in [false, true] {
        let options = SftOptions {
            recompute,
            ..SftOptions::default()
        };
        let (mut apart, mut packed) = (trainer(config()), with_options(config(), options));
        for first in [0, 4, 8] {
            let all: Vec<_> = (first..first + 4)
                .flat_map(|index| examples(&batch(index)))
                .collect();
            let single: Vec<Row> = all.iter().map(Row::from).collect();
            let together = [&all[..5], &all[5..6], &all[6..]].map(Row::from_examples);
            let single = collator.collate(&single).unwrap();
            let together = collator.collate(&together).unwrap();
            assert!(together.segment_ids.is_some() && together.batch == 3);
            assert_eq!(together.num_supervised_tokens, single.num_supervised_tokens);
            close(
                &packed.train_step(&[together]).unwrap(),
                &apart.train_step(&[single]).unwrap(),
            );
        }
    }
}

#[test]
fn recompute_changes_nothing() {
    let recomputing = SftOptions {
        recompute: true,
        neftune_noise_alpha: 5.0,
        ..SftOptions::default()
    };
    let keeping = SftOptions {
        recompute: false,
        ..recomputing
    };
    let (mut a, mut b) = (
        with_options(config(), recomputing),
        with_options(config(), keeping),
    );
    for index in 0..5 {
        let (again, kept) = (a.train_step(&step(&[index])), b.train_step(&step(&[index])));
        close(&again.unwrap(), &kept.unwrap());
    }
}

#[test]
fn noise_on_embeddings_changes_the_loss_a_little() {
    let noisy = SftOptions {
        neftune_noise_alpha: 5.0,
        ..SftOptions::default()
    };
    let with = with_options(config(), noisy)
        .train_step(&step(&[0]))
        .unwrap()
        .loss;
    let without = trainer(config()).train_step(&step(&[0])).unwrap().loss;
    assert!(with != without);
    assert!(
        (with - without).abs() < 0.2 * without,
        "{with} and {without}"
    );
}

/// A run that is resumed after three of six steps, beside the unbroken one: their trained numbers as
/// bits, and their averages as files.
fn resumed_and_unbroken(
    start: impl Fn() -> Trainer,
    go_on: impl Fn(&Path) -> Trainer,
    save: &dyn Fn(&CausalLm, &Path) -> flametune_train::Result<()>,
) -> [Trainer; 2] {
    let steps = |trainer: &mut Trainer, range: std::ops::Range<usize>| {
        for index in range {
            trainer.train_step(&step(&[index])).unwrap();
        }
    };
    let mut unbroken = start();
    steps(&mut unbroken, 0..6);

    let mut broken = start();
    steps(&mut broken, 0..3);
    let folder = tempfile::tempdir().unwrap();
    let write = |trainer: &Trainer| {
        let save = |path: &Path| save(trainer.model(), path);
        checkpoint::save(folder.path(), trainer, &cursor(), &Best::default(), &save).unwrap()
    };
    let saved = write(&broken);
    drop(broken);

    let mut resumed = go_on(&saved);
    let state: TrainerState = checkpoint::resume(&mut resumed, &saved).unwrap();
    assert_eq!((state.step, &state.cursor), (3, &cursor()));
    steps(&mut resumed, 3..6);
    let files = [&unbroken, &resumed].map(|trainer| {
        let path = write(trainer);
        let files = ["optimizer.safetensors", "trainer_state.json"];
        files.map(|name| std::fs::read(path.join(name)).unwrap())
    });
    assert!(files[0] == files[1]);
    [unbroken, resumed]
}

/// Resumes a run with an adapter.
fn check_adapter_run(config: TrainConfig, grouping: fn() -> Grouping, paged: bool) {
    let folder = tempfile::tempdir().unwrap();
    let trainer = |model: CausalLm| {
        let sft = Sft::from(AdapterPass::one("default"));
        let mut trainer = Trainer::new(model, sft, config, grouping()).unwrap();
        if paged {
            trainer.page_states(folder.path()).unwrap();
        }
        trainer
    };
    let start = || trainer(adapted(false, &json!({"lora_dropout": 0.2})).0);
    let go_on = |saved: &Path| {
        let mut model = crate::run::base(false);
        flametune_peft::load_adapter(&mut model, "default", saved).unwrap();
        flametune_peft::set_trainable(&mut model, &["default"]).unwrap();
        trainer(model)
    };
    let save = |model: &CausalLm, path: &Path| Ok(save_adapter(model, "default", path)?);
    let [unbroken, resumed] = resumed_and_unbroken(start, go_on, &save);
    assert!(bits(unbroken.model()) == bits(resumed.model()));
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    check_adapter_run(config(), even, false);
}

#[test]
fn a_resumed_run_with_paged_states_and_lora_plus_ends_with_the_same_bits() {
    check_adapter_run(config(), || groups(0.01, 8.0), true);
}

#[test]
fn a_resumed_run_of_the_whole_model_in_eight_bits_ends_with_the_same_bits() {
    let lion = r#"{"type": "lion", "eight_bit": true}"#;
    let adamw = r#"{"type": "adamw", "eight_bit": true}"#;
    let mut ends = Vec::new();
    for (rule, paged) in [(lion, false), (adamw, true), (adamw, false)] {
        let config = TrainConfig {
            rule: serde_json::from_str(rule).unwrap(),
            learning_rate: 1e-3,
            ..config()
        };
        let folder = tempfile::tempdir().unwrap();
        let trainer = |model: CausalLm| {
            let mut trainer = Trainer::new(model, Sft::default(), config, even()).unwrap();
            if paged {
                trainer.page_states(folder.path()).unwrap();
            }
            trainer
        };
        let start = || trainer(crate::run::base(false));
        let go_on = |saved: &Path| {
            let checkpoint = Checkpoint::open(saved).unwrap();
            let options = LoadOptions::f32(&Device::flex().autodiff());
            trainer(CausalLm::load(&checkpoint, &options, &mut |_| {}).unwrap())
        };
        let base = Checkpoint::open(fixture_path("training/base")).unwrap();
        let save = |model: &CausalLm, path: &Path| {
            model.save_pretrained(path, base.config(), usize::MAX)?;
            Ok(())
        };
        let [unbroken, resumed] = resumed_and_unbroken(start, go_on, &save);
        let whole = |trainer: &Trainer| trainer.model().valid().named_tensors().unwrap();
        let pairs = whole(&unbroken).into_iter().zip(whole(&resumed));
        for (a, b) in pairs {
            assert_eq!(a.data(), b.data(), "{rule} {}", a.name);
        }
        let averages = unbroken.optimizer();
        assert_eq!(paged, averages.resident_bytes() < averages.bytes());
        ends.push(whole(&unbroken));
    }
    // Paged or not, the numbers are the same.
    for (a, b) in ends[1].iter().zip(&ends[2]) {
        assert_eq!(a.data(), b.data(), "{}", a.name);
    }
}

pub(crate) fn cursor() -> SamplerCursor {
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
    let error = checkpoint::resume::<_, SamplerCursor>(&mut other, &saved)
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
    let evaluated = trainer.evaluate(&step).unwrap();
    let trained = trainer.train_step(&step).unwrap();
    assert_eq!(evaluated.supervised_tokens, trained.supervised_tokens);
    assert!((evaluated.loss - trained.loss).abs() < 1e-5 * trained.loss);
    assert!((evaluated.perplexity() - evaluated.loss.exp()).abs() < 1e-9);
}
