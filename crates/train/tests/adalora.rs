//! AdaLoRA in a run: ranks are handed out as PEFT does, and a resumed run hands them out alike.

use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use flametune_data::Batch;
use flametune_lm::{CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{
    AdaLoraConfig, AdapterPass, LinearMethod, PeftConfig, SlotModule, Slots, adapter_tensors,
    inject, load_adapter, save_adapter, set_trainable,
};
use flametune_testkit::{fixture_json, fixture_path, fixture_safetensors};
use flametune_train::{
    Best, Error, Schedule, Sft, StepReport, TrainConfig, Trainer, Warmup, checkpoint,
};
use serde_json::Value;

use crate::run::even;

const STEPS: usize = 30;

/// The configuration of the golden run.
fn adalora() -> AdaLoraConfig {
    let schedule = fixture_json("peft/adalora_schedule.json");
    let mut config = fixture_json("peft/adalora/adapter_config.json");
    for field in [
        "init_r",
        "target_r",
        "total_step",
        "tinit",
        "tfinal",
        "deltaT",
    ] {
        config[field] = schedule["cfg"][field].clone();
    }
    config["orth_reg_weight"] = schedule["orth_reg_weight"].clone();
    config["inference_mode"] = false.into();
    serde_json::from_value(config).unwrap()
}

fn base() -> CausalLm {
    let checkpoint = Checkpoint::open(fixture_path("peft/base_llama")).unwrap();
    let options = LoadOptions::f32(&Device::flex().autodiff());
    CausalLm::load(&checkpoint, &options, &mut |_| {}).unwrap()
}

fn each_matrix(model: &mut CausalLm, mut visit: impl FnMut(&str, &mut Param<Tensor<2>>)) {
    model.visit_slots(&mut |slot| {
        let SlotModule::Linear(linear) = slot.module else {
            return;
        };
        for part in linear.adapters.iter_mut() {
            if let LinearMethod::AdaLora(part) = &mut part.method {
                let matrices = [&mut part.lora_a, &mut part.lora_e, &mut part.lora_b];
                for (name, param) in ["lora_A", "lora_E", "lora_B"].into_iter().zip(matrices) {
                    visit(&format!("{}.{name}", slot.path), param);
                }
            }
        }
    });
}

fn trainer(model: CausalLm, config: TrainConfig) -> Trainer {
    let objective = Sft::from(AdapterPass::one("default"));
    let mut trainer = Trainer::new(model, objective, config, even()).unwrap();
    trainer.allocate_ranks("default").unwrap();
    trainer
}

fn config() -> TrainConfig {
    TrainConfig {
        learning_rate: 0.005,
        schedule: Schedule::Constant,
        warmup: Warmup::Steps(0),
        max_steps: STEPS,
        weight_decay: 0.01,
        max_grad_norm: None,
        ..TrainConfig::default()
    }
}

/// A trainer where the golden run began.
fn golden() -> Trainer {
    let mut model = base();
    inject(&mut model, "default", &adalora().into(), 0).unwrap();
    let tensors = fixture_safetensors("peft/adalora_training.safetensors");
    each_matrix(&mut model, |name, param| {
        let initial = tensors[&format!("init.base_model.model.{name}.default")].clone();
        *param = param.clone().map(|old| {
            let place = (&old.device(), old.dtype());
            Tensor::from_data(initial, place).set_require_grad(true)
        });
    });
    trainer(model, config())
}

/// The text of the golden run; every token is learned but the first of a row.
fn batch() -> Batch {
    let ids: Vec<i64> = fixture_safetensors("peft/inputs.safetensors")["input_ids"]
        .iter::<i64>()
        .collect();
    let seq = ids.len() / 2;
    Batch {
        num_supervised_tokens: 2 * (seq - 1),
        input_ids: ids.iter().map(|&id| u32::try_from(id).unwrap()).collect(),
        position_ids: (0..2)
            .flat_map(|_| 0..u32::try_from(seq).unwrap())
            .collect(),
        segment_ids: None,
        lengths: vec![seq; 2],
        labels: ids,
        batch: 2,
        seq,
    }
}

fn steps(trainer: &mut Trainer, count: usize) -> Vec<StepReport> {
    let batches = [batch()];
    (0..count)
        .map(|_| trainer.train_step(&batches).unwrap())
        .collect()
}

#[test]
fn the_trainer_has_the_losses_and_budgets_of_peft() {
    let expected = fixture_json("peft/adalora_training.json");
    let schedule = fixture_json("peft/adalora_schedule.json");
    let expected = expected["steps"].as_array().unwrap();
    let mut trainer = golden();
    for (step, report) in steps(&mut trainer, expected.len()).iter().enumerate() {
        let loss = expected[step]["loss"].as_f64().unwrap();
        // Ten steps of Adam on f32 sums of twenty tokens; a rank that another one replaced would show
        // in the third digit.
        let difference = (report.loss - loss).abs();
        assert!(difference < 1e-4 * loss, "{step}: {} {loss}", report.loss);
        let budget = schedule["budget_schedule"][step][0].as_f64().unwrap();
        assert_eq!(report.metrics["ranks"], budget, "{step}");
        assert!(report.metrics["orthogonality"] > 0.0);
    }
}

fn save(trainer: &Trainer, folder: &Path) -> std::path::PathBuf {
    let save_model = |to: &Path| Ok(save_adapter(trainer.model(), "default", to)?);
    checkpoint::save(folder, trainer, &(), &Best::default(), &save_model).unwrap()
}

fn resumed(at: &Path) -> Trainer {
    let mut model = base();
    load_adapter(&mut model, "default", at).unwrap();
    set_trainable(&mut model, &["default"]).unwrap();
    let mut trainer = trainer(model, config());
    checkpoint::resume::<_, ()>(&mut trainer, at).unwrap();
    trainer
}

fn pattern(trainer: &Trainer) -> Value {
    match trainer
        .model()
        .adapters()
        .config("default")
        .unwrap()
        .as_ref()
    {
        PeftConfig::AdaLora(config) => serde_json::to_value(&config.rank_pattern).unwrap(),
        _ => panic!("AdaLoRA"),
    }
}

#[test]
fn a_resumed_run_hands_out_the_ranks_of_the_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut unbroken = golden();
    let mut losses = steps(&mut unbroken, 2);
    // Before the first allocation, between two, at a step without one, and after the last.
    let mut checkpoints = Vec::new();
    for until in [5, 8, 27, STEPS] {
        checkpoints.push(save(&unbroken, folder.path()));
        let more = until - losses.len();
        losses.extend(steps(&mut unbroken, more));
    }
    assert!(unbroken.is_finished());
    for at in checkpoints {
        let mut trainer = resumed(&at);
        let first = trainer.steps();
        let again = steps(&mut trainer, STEPS - first);
        for (again, before) in again.iter().zip(&losses[first..]) {
            let bits = |report: &StepReport| (report.loss.to_bits(), report.grad_norm.to_bits());
            assert_eq!(bits(again), bits(before), "{first}: step {}", again.step);
        }
        assert_eq!(pattern(&trainer), pattern(&unbroken), "{first}");
        let tensors = |trainer: &Trainer| adapter_tensors(trainer.model(), "default").unwrap();
        assert_eq!(tensors(&trainer), tensors(&unbroken), "{first}");
    }
}

#[test]
fn the_end_has_the_ranks_that_were_asked_for() {
    let mut trainer = golden();
    steps(&mut trainer, STEPS);
    let kept: usize = pattern(&trainer)
        .as_object()
        .unwrap()
        .values()
        .flat_map(|kept| kept.as_array().unwrap())
        .filter(|kept| kept.as_bool() == Some(true))
        .count();
    assert_eq!(kept, 12, "a mean of 3 in 4 modules");
    let folder = tempfile::tempdir().unwrap();
    save_adapter(trainer.model(), "default", folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    let saved: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(saved["rank_pattern"], pattern(&trainer));
    // The file computes what the trained model does, as nothing was learned after the last mask.
    let mut loaded = base();
    load_adapter(&mut loaded, "default", folder.path()).unwrap();
    let objective = Sft::from(AdapterPass::one("default"));
    let trained = trainer.evaluate(&[batch()]).unwrap().loss;
    set_trainable(&mut loaded, &["default"]).unwrap();
    let loaded = Trainer::new(loaded, objective, config(), even()).unwrap();
    let stored = loaded.evaluate(&[batch()]).unwrap().loss;
    // The same products with fewer terms.
    assert!(
        (trained - stored).abs() < 1e-6 * stored,
        "{trained} {stored}"
    );
}

#[test]
fn another_number_of_steps_and_damaged_checkpoints_are_refused() {
    let mut model = base();
    inject(&mut model, "default", &adalora().into(), 0).unwrap();
    let longer = TrainConfig {
        max_steps: 31,
        ..config()
    };
    let objective = Sft::from(AdapterPass::one("default"));
    let mut trainer = Trainer::new(model, objective, longer, even()).unwrap();
    let error = trainer.allocate_ranks("default").unwrap_err().to_string();
    assert_eq!(error, "total_step must be the 31 steps of the run, got 30");
    let error = trainer.allocate_ranks("other").unwrap_err();
    assert!(matches!(error, Error::Peft(_)), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let mut trainer = golden();
    steps(&mut trainer, 1);
    let at = save(&trainer, folder.path());
    let ranks = at.join("ranks.safetensors");
    let refused = || {
        let mut model = base();
        load_adapter(&mut model, "default", &at).unwrap();
        set_trainable(&mut model, &["default"]).unwrap();
        let mut trainer = self::trainer(model, config());
        let error = checkpoint::resume::<_, ()>(&mut trainer, &at).unwrap_err();
        error.to_string()
    };
    let view = |bytes: &'static [u8], shape: Vec<usize>| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).unwrap()
    };
    let other = [("other", view(&[0; 4], vec![1]))];
    safetensors::serialize_to_file(other, None, &ranks).unwrap();
    assert!(refused().contains("q_proj.lora_A"), "{}", refused());
    std::fs::write(&ranks, b"cut").unwrap();
    assert!(refused().contains("ranks.safetensors"));
    std::fs::remove_file(&ranks).unwrap();
    assert!(refused().contains("ranks.safetensors"));
}
