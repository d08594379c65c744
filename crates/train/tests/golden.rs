//! Twenty steps of every golden run, step by step.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use flametune_quant::Map8;
use flametune_testkit::{fixture_json, fixture_safetensors};
use flametune_train::optim::{
    BLOCK_SIZE_8BIT, GradientSum, Moments, Optimizer, Rule, StepSize, global_norm, groups,
};
use flametune_train::{
    Grouping, MicroStep, Objective, Schedule, Sft, SftOptions, StepReport, TrainConfig, Trainer,
};
use serde_json::json;

use crate::run::{adapted, base, batch, config, curve, even, run};

/// Losses and norms are sums of f32 in another order; the steps themselves differ by no more.
const SAME: f64 = 1e-6;

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
    let learning_rates = fixture_json(format!("training/{name}.json"))["steps"].clone();
    for (report, expected) in reports.iter().zip(learning_rates.as_array().unwrap()) {
        // LoRA+ has one for each group; the lower is the run's.
        let lr = &expected["lr"];
        let lr = lr.as_f64().or(lr[0].as_f64()).unwrap();
        let difference = (report.learning_rate - lr).abs();
        assert!(difference < 1e-15, "{name} step {}: {lr}", report.step);
    }
}

/// The norm of every parameter's first gradient, by PEFT's names.
fn first_gradients(quantized: bool, changes: &serde_json::Value) -> BTreeMap<String, f64> {
    struct Norms<'a> {
        path: Vec<String>,
        gradients: &'a GradientSum,
        found: BTreeMap<String, f64>,
    }
    impl ModuleVisitor for Norms<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get(param.id) {
                let name = peft_name(&self.path);
                self.found.insert(name, global_norm([gradient]));
            }
        }
    }
    let (model, pass) = adapted(quantized, changes);
    let batch = batch(0);
    let mut gradients = GradientSum::new();
    let sft = Sft::from(pass);
    let at = MicroStep::new(0, 0, 0);
    sft.accumulate(&model, &batch, &at, &mut gradients).unwrap();
    gradients.scale(1.0 / batch.num_supervised_tokens as f32);
    let mut norms = Norms {
        path: Vec::new(),
        gradients: &gradients,
        found: BTreeMap::new(),
    };
    model.visit(&mut norms);
    norms.found
}

/// `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`, from our path.
fn peft_name(path: &[String]) -> String {
    let layers = path.iter().position(|part| part == "layers").unwrap();
    let module = path.iter().find(|part| part.ends_with("_proj")).unwrap();
    let block = match module.as_str() {
        "gate_proj" | "up_proj" | "down_proj" => "mlp",
        _ => "self_attn",
    };
    let parameter = match path.last().unwrap().as_str() {
        "lora_a" => "lora_A",
        "lora_b" => "lora_B",
        other => other,
    };
    let layer = &path[layers + 1];
    format!("base_model.model.model.layers.{layer}.{block}.{module}.{parameter}.weight")
}

#[test]
fn first_gradients_are_those_of_torch_parameter_by_parameter() {
    // One pass in f32, summed in another order; packed weights are scaled after they are summed.
    for (name, quantized, changes, tolerance) in [
        ("lora_sft", false, json!({}), 2e-5),
        ("rslora_sft", false, json!({"use_rslora": true}), 2e-5),
        ("dora_sft", false, json!({"use_dora": true}), 2e-5),
        ("qlora_nf4_dq_sft", true, json!({}), 2e-4),
    ] {
        let got = first_gradients(quantized, &changes);
        let file = fixture_json(format!("training/{name}.json"));
        let expected = file["grad_norms_step0"].as_object().unwrap();
        assert_eq!(got.len(), expected.len());
        for (parameter, expected) in expected {
            let (got, expected) = (got[parameter], expected.as_f64().unwrap());
            assert!(
                (got - expected).abs() <= tolerance * expected + 1e-9,
                "{name} {parameter}: {got} != {expected}"
            );
        }
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
    let mut trainer = Trainer::new(model, Sft::from(pass), config, grouping).unwrap();
    run(&mut trainer, accumulation)
}

#[test]
fn lora_follows_peft() {
    let reports = train(false, &json!({}), config(), even(), 1);
    check("lora_sft", &reports, SAME, SAME);
}

#[test]
fn rslora_follows_peft() {
    let reports = train(false, &json!({"use_rslora": true}), config(), even(), 1);
    check("rslora_sft", &reports, SAME, SAME);
}

#[test]
fn dora_follows_peft() {
    let reports = train(false, &json!({"use_dora": true}), config(), even(), 1);
    check("dora_sft", &reports, SAME, SAME);
}

#[test]
fn lora_plus_follows_peft() {
    // PEFT's `create_loraplus_optimizer` decays nothing unless it is told to.
    let grouping = groups(0.0, 8.0);
    let config = TrainConfig {
        learning_rate: 0.00125,
        ..config()
    };
    let reports = train(false, &json!({}), config, grouping, 1);
    check("loraplus_sft", &reports, SAME, SAME);
}

#[test]
fn label_smoothing_follows_torch() {
    let (model, pass) = adapted(false, &json!({}));
    let options = SftOptions {
        label_smoothing: 0.1,
        ..SftOptions::default()
    };
    let mut trainer = Trainer::new(model, Sft { pass, options }, config(), even()).unwrap();
    let reports = run(&mut trainer, 1);
    check("lora_sft_label_smoothing", &reports, SAME, SAME);
}

#[test]
fn a_linear_schedule_without_clipping_follows_torch() {
    let config = TrainConfig {
        schedule: Schedule::Linear,
        max_grad_norm: None,
        ..config()
    };
    let reports = train(false, &json!({}), config, even(), 1);
    check("lora_sft_linear_noclip", &reports, SAME, SAME);
}

#[test]
fn accumulation_normalises_by_the_tokens_of_the_step() {
    let reports = train(false, &json!({}), config(), even(), 2);
    check("lora_sft_accum_token_normalised", &reports, SAME, SAME);
}

#[test]
fn qlora_over_packed_weights_follows_bitsandbytes() {
    let reports = train(true, &json!({}), config(), even(), 1);
    // Packed weights are scaled after they are summed; twenty steps of AdamW carry the rounding on.
    check("qlora_nf4_dq_sft", &reports, 2e-5, 2e-4);
}

#[test]
fn eight_bit_adamw_follows_bitsandbytes() {
    let rule = Rule::AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        eight_bit: true,
    };
    // The golden's averages are in eight bits however small a parameter is, which a run's are not.
    let maps = [Map8::dynamic_signed(), Map8::dynamic_unsigned()];
    let (mut model, pass) = adapted(false, &json!({}));
    let mut lengths = Lengths::default();
    model.visit(&mut lengths);
    let averages = lengths.found.into_iter();
    let averages = averages
        .map(|(path, len)| (path, eight_bit_zeros(len, &maps)))
        .collect();
    let mut optimizer = Optimizer::from_parts(rule, 0, averages);
    let (config, group, sft) = (config(), even(), Sft::from(pass));
    for (step, (loss, norm)) in curve("lora_sft_adamw8bit").into_iter().enumerate() {
        let (batch, mut gradients) = (batch(step), GradientSum::new());
        let at = MicroStep::new(0, step, 0);
        let got = sft.accumulate(&model, &batch, &at, &mut gradients).unwrap();
        let tokens = batch.num_supervised_tokens as f64;
        gradients.scale(1.0 / batch.num_supervised_tokens as f32);
        let (got, got_norm) = (got.sum / tokens, gradients.clip(1.0));
        // bitsandbytes' CPU kernel takes a neighbour of the nearest code 3 times in 100.
        assert!(
            (got - loss).abs() < 1e-4 * loss,
            "step {step}: {got} != {loss}"
        );
        assert!(
            (got_norm - norm).abs() < 1e-3 * norm,
            "step {step}: norm {got_norm} != {norm}"
        );
        let lr = config.learning_rate_at(step);
        model = optimizer.step(model, &gradients, lr, &*group).unwrap();
    }
    let moment = optimizer.moment(&optimizer.parameters()[0], 0).unwrap();
    assert!(matches!(*moment.unwrap(), Moments::Bits8 { .. }));
}

/// Zeros in eight bits for `len` numbers, one average for each map.
fn eight_bit_zeros(len: usize, maps: &[&Map8]) -> Vec<Moments> {
    let average = |map: &&Map8| Moments::Bits8 {
        codes: vec![map.encode(0.0); len],
        absmax: vec![0.0; len.div_ceil(BLOCK_SIZE_8BIT)],
    };
    maps.iter().map(average).collect()
}

#[test]
fn eight_bit_states_are_those_of_bitsandbytes() {
    let golden = fixture_safetensors("training/optimizers.safetensors");
    let floats = |name: &str| golden[name].clone().try_to_vec::<f32>().unwrap();
    let adamw = Rule::AdamW {
        beta1: 0.9,
        beta2: 0.995,
        eps: 1e-8,
        eight_bit: true,
    };
    let lion = Rule::Lion {
        beta1: 0.9,
        beta2: 0.99,
        eight_bit: true,
    };
    let both = [Map8::dynamic_signed(), Map8::dynamic_unsigned()];
    for (rule, lr, name, maps) in [
        (adamw, 0.01, "bnb_adamw8bit", &both[..]),
        (lion, 0.001, "bnb_lion8bit", &both[..1]),
    ] {
        let mut param = floats("init");
        let mut moments = eight_bit_zeros(param.len(), maps);
        for step in 0..10 {
            let by = StepSize {
                lr,
                weight_decay: 0.1,
                step: step + 1,
            };
            let gradient = floats(&format!("grad.{step}"));
            rule.update(&mut param, &gradient, &mut moments, by);
        }
        for ((index, moments), map) in moments.iter().enumerate().zip(maps) {
            let number = index + 1;
            let state = &golden[&format!("{name}.state.state{number}")];
            let theirs: Vec<u8> = state.clone().try_to_vec().unwrap();
            let scales = floats(&format!("{name}.state.absmax{number}"));
            let Moments::Bits8 { codes, absmax } = moments else {
                panic!("averages in eight bits");
            };
            for (ours, theirs) in absmax.iter().zip(&scales) {
                let difference = (ours - theirs).abs() / theirs;
                assert!(difference < 5e-5, "{name} scale: {ours} != {theirs}");
            }
            // Its CPU kernel takes a neighbour of the nearest code now and then, which the next
            // steps carry on: about one code in a hundred, by a step or two.
            let equal = codes.iter().zip(&theirs).filter(|(a, b)| a == b).count();
            assert!(equal >= 1010, "{name} {number}: {equal} of 1024 codes");
            for (ours, theirs) in codes.iter().zip(&theirs) {
                let difference = (map.decode(*ours) - map.decode(*theirs)).abs();
                assert!(difference < 0.03, "{name}: code {ours}, theirs {theirs}");
            }
        }
    }
}

/// The length of every trained parameter, by its path.
#[derive(Default)]
struct Lengths {
    path: Vec<String>,
    found: BTreeMap<String, usize>,
}

impl ModuleVisitor for Lengths {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let len = param.val().shape().num_elements();
            self.found.insert(self.path.join("."), len);
        }
    }
}

#[test]
fn full_fine_tuning_follows_torch() {
    let config = TrainConfig {
        schedule: Schedule::ConstantWithWarmup,
        ..config()
    };
    let mut trainer = Trainer::new(base(false), Sft::default(), config, even()).unwrap();
    let reports = run(&mut trainer, 1);
    check("full_ft", &reports, SAME, SAME);
}
