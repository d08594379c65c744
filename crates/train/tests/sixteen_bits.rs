//! Full fine-tuning of weights in 16 bits.

use burn::tensor::{DType, Device};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions};
use flametune_testkit::fixture_path;
use flametune_train::{Schedule, Sft, TrainConfig, Trainer, Warmup};

use crate::run::{batch, even, step};

/// How far the loss falls in 60 steps of a learning rate that f32 follows and bf16, to the nearest,
/// does not.
fn fall(weights: DType) -> f64 {
    let checkpoint = Checkpoint::open(fixture_path("training/base")).unwrap();
    let options = LoadOptions::new(&Device::flex().autodiff(), weights, DType::F32);
    let model = CausalLm::load(&checkpoint, &options, &mut |_| {}).unwrap();
    let config = TrainConfig {
        learning_rate: 1e-5,
        schedule: Schedule::Constant,
        warmup: Warmup::Steps(0),
        max_steps: 60,
        max_grad_norm: None,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(model, Sft::default(), config, even()).unwrap();
    let held: Vec<_> = (0..4).map(batch).collect();
    let loss = |trainer: &Trainer| trainer.evaluate(&held).unwrap().loss;
    let before = loss(&trainer);
    for _ in 0..15 {
        for index in 0..4 {
            trainer.train_step(&step(&[index])).unwrap();
        }
    }
    before - loss(&trainer)
}

#[test]
fn a_tiny_learning_rate_moves_weights_in_16_bits_as_it_moves_f32() {
    let (exact, rounded) = (fall(DType::F32), fall(DType::BF16));
    assert!(exact > 1e-3, "{exact}");
    // Random roundings of some ten thousand weights leave a few percent.
    assert!((rounded / exact - 1.0).abs() < 0.2, "{rounded} {exact}");
}
