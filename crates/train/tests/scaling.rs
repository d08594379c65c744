//! Loss scaling: overflows that are left out, and a model that computes in f16.

use burn::tensor::{DType, Device};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{AdapterPass, LoraConfig, PeftConfig, TargetModules, inject, set_trainable};
use flametune_testkit::fixture_path;
use flametune_train::checkpoint::{self, TrainerState};
use flametune_train::{Best, Error, LossScaling, Schedule, Sft, TrainConfig, Trainer, Warmup};
use serde_json::json;

use crate::run::{adapted, config, even, step};
use crate::step::{bits, cursor};

fn scaled(init_scale: f64, growth_interval: usize) -> TrainConfig {
    TrainConfig {
        loss_scaling: Some(LossScaling {
            init_scale,
            growth_interval,
            ..LossScaling::default()
        }),
        ..config()
    }
}

fn trainer(config: TrainConfig) -> Trainer {
    let (model, pass) = adapted(false, &json!({}));
    Trainer::new(model, Sft::from(pass), config, even()).unwrap()
}

#[test]
fn a_scale_that_overflows_nothing_changes_nothing() {
    let (mut plain, mut with) = (trainer(config()), trainer(scaled(1024.0, 3)));
    for index in 0..8 {
        let (plain, with) = (
            plain.train_step(&step(&[index])).unwrap(),
            with.train_step(&step(&[index])).unwrap(),
        );
        // Powers of two scale f32 exactly, unless a gradient is below 2^-126.
        assert_eq!(plain.grad_norm, with.grad_norm);
        assert_eq!(with.metrics["skipped"], 0.0);
    }
    assert_eq!(with.loss_scale().scale, 4096.0);
    assert!(bits(plain.model()) == bits(with.model()));
}

#[test]
fn steps_that_overflow_count_and_change_nothing_until_the_scale_fits() {
    // The first scale makes infinities of f32 gradients.
    let mut trainer = trainer(scaled(f64::from(f32::MAX), 2000));
    let before = bits(trainer.model());
    let report = trainer.train_step(&step(&[0])).unwrap();
    assert_eq!((report.step, report.grad_norm), (1, 0.0));
    assert_eq!(report.metrics["skipped"], 1.0);
    assert!(bits(trainer.model()) == before);
    assert_eq!(trainer.optimizer().steps(), 0);
    let mut skipped = 1;
    while trainer.train_step(&step(&[0])).unwrap().metrics["skipped"] == 1.0 {
        skipped += 1;
    }
    let scale = f64::from(f32::MAX) * 0.5_f64.powi(skipped);
    assert_eq!(trainer.loss_scale().scale, scale);
    assert_eq!(trainer.steps(), skipped as usize + 1);
    assert_eq!(trainer.optimizer().steps(), 1);
    assert!(bits(trainer.model()) != before);
}

#[test]
fn a_loss_that_is_no_number_is_no_overflow() {
    let diverging = TrainConfig {
        learning_rate: 1e30,
        schedule: Schedule::Constant,
        max_grad_norm: None,
        ..scaled(1.0, 2000)
    };
    let mut trainer = trainer(diverging);
    let error = (0..5).find_map(|index| trainer.train_step(&step(&[index])).err());
    assert!(
        matches!(error, Some(Error::NotFinite { what: "loss", .. })),
        "{error:?}"
    );
}

#[test]
fn the_scale_is_resumed() {
    let mut first = trainer(scaled(8.0, 2));
    for index in 0..3 {
        first.train_step(&step(&[index])).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let save = |_: &std::path::Path| Ok(());
    let saved =
        checkpoint::save(folder.path(), &first, &cursor(), &Best::default(), &save).unwrap();
    let mut second = trainer(scaled(8.0, 2));
    let _: TrainerState = checkpoint::resume(&mut second, &saved).unwrap();
    assert_eq!(second.loss_scale(), first.loss_scale());
    assert_eq!(
        (second.loss_scale().scale, second.loss_scale().good_steps),
        (16.0, 1)
    );
}

/// LoRA on a base that computes in `dtype`.
fn computing_in(dtype: DType, config: TrainConfig) -> Trainer {
    let checkpoint = Checkpoint::open(fixture_path("training/base")).unwrap();
    let options = LoadOptions::new(&Device::flex().autodiff(), dtype, dtype);
    let mut model = CausalLm::load(&checkpoint, &options, &mut |_| {}).unwrap();
    let lora = LoraConfig {
        r: 4,
        lora_alpha: 8.0,
        target_modules: Some(TargetModules::AllLinear),
        ..LoraConfig::default()
    };
    inject(&mut model, "default", &PeftConfig::Lora(lora), 0).unwrap();
    set_trainable(&mut model, &["default"]).unwrap();
    let pass = AdapterPass::one("default");
    Trainer::new(model, Sft::from(pass), config, even()).unwrap()
}

#[test]
fn a_model_that_computes_in_f16_follows_the_one_in_f32() {
    let steady = |scaling: TrainConfig| TrainConfig {
        schedule: Schedule::Constant,
        warmup: Warmup::Steps(0),
        ..scaling
    };
    let mut half = computing_in(DType::F16, steady(scaled(65536.0, 2000)));
    let mut full = computing_in(DType::F32, steady(config()));
    let mut last = (0.0, 0.0);
    for index in 0..20 {
        let report = half.train_step(&step(&[index])).unwrap();
        if report.metrics["skipped"] == 1.0 {
            continue;
        }
        last = (report.loss, full.train_step(&step(&[index])).unwrap().loss);
        // Eleven bits of a number, in a loss near 6 and weights that take different steps.
        assert!((last.0 - last.1).abs() < 0.02 * last.1, "{index}: {last:?}");
    }
    assert!(last.0 < 5.7, "{last:?}");
}
