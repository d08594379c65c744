//! Twenty steps of every golden run, step by step.

use flametune_train::optim::{ParamGroup, Rule};
use flametune_train::{Grouping, Schedule, StepReport, TrainConfig, Trainer};
use serde_json::json;

use crate::run::{adapted, base, config, curve, even, run};

/// Losses are sums of f32 in another order; over twenty steps AdamW carries the difference on.
const LOSS: f64 = 1e-4;

/// Norms of gradients differ more: small gradients decide the first AdamW steps by their signs.
const NORM: f64 = 2e-3;

#[track_caller]
fn check(name: &str, reports: &[StepReport], loss_tolerance: f64, norm_tolerance: f64) {
    let expected = curve(name);
    assert_eq!(reports.len(), expected.len());
    for (report, (loss, norm)) in reports.iter().zip(expected) {
        let step = report.step;
        let difference = (report.loss - loss).abs() / loss;
        assert!(
            difference < loss_tolerance,
            "{name} step {step}: loss {} != {loss}",
            report.loss
        );
        let difference = (report.grad_norm - norm).abs() / norm;
        assert!(
            difference < norm_tolerance,
            "{name} step {step}: norm {} != {norm}",
            report.grad_norm
        );
    }
}

fn train(
    quantized: bool,
    changes: &serde_json::Value,
    config: TrainConfig,
    grouping: Grouping,
    accumulation: usize,
) -> Vec<StepReport> {
    let (model, pass) = adapted(quantized, changes);
    let mut trainer = Trainer::new(model, pass, config, grouping).unwrap();
    run(&mut trainer, accumulation)
}

#[test]
fn lora_follows_peft() {
    let reports = train(false, &json!({}), config(), even(), 1);
    check("lora_sft", &reports, LOSS, NORM);
}

#[test]
fn rslora_follows_peft() {
    let reports = train(false, &json!({"use_rslora": true}), config(), even(), 1);
    check("rslora_sft", &reports, LOSS, NORM);
}

#[test]
fn dora_follows_peft() {
    let reports = train(false, &json!({"use_dora": true}), config(), even(), 1);
    check("dora_sft", &reports, LOSS, NORM);
}

#[test]
fn lora_plus_follows_peft() {
    let grouping: Grouping = Box::new(|path| ParamGroup {
        lr_ratio: if path.ends_with("lora_b") { 8.0 } else { 1.0 },
        weight_decay: 0.01,
    });
    let config = TrainConfig {
        learning_rate: 0.00125,
        ..config()
    };
    let reports = train(false, &json!({}), config, grouping, 1);
    check("loraplus_sft", &reports, LOSS, NORM);
}

#[test]
fn label_smoothing_follows_torch() {
    let config = TrainConfig {
        label_smoothing: 0.1,
        ..config()
    };
    let reports = train(false, &json!({}), config, even(), 1);
    check("lora_sft_label_smoothing", &reports, LOSS, NORM);
}

#[test]
fn a_linear_schedule_without_clipping_follows_torch() {
    let config = TrainConfig {
        schedule: Schedule::Linear,
        max_grad_norm: None,
        ..config()
    };
    let reports = train(false, &json!({}), config, even(), 1);
    check("lora_sft_linear_noclip", &reports, LOSS, NORM);
}

#[test]
fn accumulation_normalises_by_the_tokens_of_the_step() {
    let reports = train(false, &json!({}), config(), even(), 2);
    check("lora_sft_accum_token_normalised", &reports, LOSS, NORM);
}

#[test]
fn qlora_over_packed_weights_follows_bitsandbytes() {
    let reports = train(true, &json!({}), config(), even(), 1);
    check("qlora_nf4_dq_sft", &reports, LOSS, NORM);
}

#[test]
fn eight_bit_adamw_stays_by_bitsandbytes() {
    let rule = Rule::AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        eight_bit: true,
    };
    let reports = train(
        false,
        &json!({}),
        TrainConfig { rule, ..config() },
        even(),
        1,
    );
    // Its states are in eight bits whatever their size there, and its codes not always the nearest.
    check("lora_sft_adamw8bit", &reports, 2e-2, 0.2);
}

#[test]
fn full_fine_tuning_follows_torch() {
    let config = TrainConfig {
        schedule: Schedule::ConstantWithWarmup,
        ..config()
    };
    let mut trainer = Trainer::new(base(false), Default::default(), config, even()).unwrap();
    let reports = run(&mut trainer, 1);
    check("full_ft", &reports, LOSS, NORM);
}
