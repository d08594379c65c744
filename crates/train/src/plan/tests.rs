use burn::tensor::Device;
use flametune_lm::{
    BlockStyle, CausalLm, Checkpoint, DecoderConfig, LoadOptions, QkNorm, QuantizeOptions,
};
use flametune_peft::{LoraConfig, PeftConfig, TargetModules, inject, report};
use flametune_quant::QuantConfig;
use flametune_testkit::fixture_path;

use super::*;
use crate::optim::{Optimizer, Rule};

/// SmolLM2-135M.
fn smollm2() -> ModelShape {
    ModelShape {
        layers: 30,
        d_model: 576,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        d_ff: 1536,
        vocab: 49_152,
        tied: true,
        fused: false,
        block: BlockStyle::PreNorm,
        qk_norm: QkNorm::None,
        norm_bias: false,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
    }
}

fn settings(shape: &ModelShape) -> Settings {
    Settings {
        storage: Storage::Quantized {
            config: QuantConfig::default(),
            bytes: 4,
        },
        trained: Trained::LowRank(LowRank::all_linear(shape, 16)),
        rule: Rule::default(),
        batch: 4,
        seq: 256,
        accumulation: 1,
        supervised: 1.0,
        recompute: false,
        paged_states: false,
        program_bytes: 0,
    }
}

fn load(name: &str, quantize: bool) -> (CausalLm, ModelShape) {
    let checkpoint = Checkpoint::open(fixture_path(format!("models/{name}"))).unwrap();
    let shape = ModelShape::of(&DecoderConfig::read(checkpoint.config()).unwrap()).unwrap();
    let mut options = LoadOptions::f32(&Device::flex());
    if quantize {
        options = options.with_quantize(QuantizeOptions::new(QuantConfig::default()));
    }
    let model = CausalLm::load(&checkpoint, &options, &mut |_| {}).unwrap();
    (model, shape)
}

const MODELS: [&str; 12] = [
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "llama",
    "llama_mha_headdim",
    "llama_tied_bias",
    "mistral_swa",
    "olmo2",
    "phi3",
    "qwen3",
    "stablelm",
];

#[test]
fn weights_are_counted_to_the_byte() {
    for name in MODELS {
        for quantize in [false, true] {
            let (model, shape) = load(name, quantize);
            let storage = if quantize {
                Storage::Quantized {
                    config: QuantConfig::default(),
                    bytes: 4,
                }
            } else {
                Storage::Dense { bytes: 4 }
            };
            let counted = report(&model).base_bytes as u64;
            assert_eq!(
                storage.bytes(&shape),
                counted,
                "{name}, quantized: {quantize}"
            );
        }
    }
}

#[test]
fn adapters_are_read_from_a_report_and_counted() {
    for name in MODELS {
        let (mut model, shape) = load(name, false);
        let config = LoraConfig {
            r: 4,
            target_modules: Some(TargetModules::AllLinear),
            ..LoraConfig::default()
        };
        inject(&mut model, "default", &PeftConfig::Lora(config), 0).unwrap();
        let report = report(&model);
        let adapter = LowRank::of_report(&report, &shape);
        assert_eq!(adapter, LowRank::all_linear(&shape, 4), "{name}");
        assert_eq!(adapter.parameters(&shape), report.trainable, "{name}");
        let trained = Trained::LowRank(adapter);
        assert_eq!(
            trained.adapter_bytes(&shape),
            report.trainable_bytes as u64,
            "{name}"
        );
    }
}

#[test]
fn mixtures_of_experts_are_refused() {
    let checkpoint = Checkpoint::open(fixture_path("models/mixtral")).unwrap();
    let config = DecoderConfig::read(checkpoint.config()).unwrap();
    let error = ModelShape::of(&config).unwrap_err().to_string();
    assert!(
        error.starts_with("num_local_experts must be 0 for a plan, got "),
        "{error}"
    );
}

#[test]
fn a_layers_activations_are_the_sum_of_what_operations_keep() {
    let shape = smollm2();
    let settings = settings(&shape);
    // d = q = 576, kv = 192, f = 1536, 9 heads, 7 adapters of rank 16.
    let numbers = 4 * 576 + (2 * 576 + 2 * 192 + 9) + 3 * 1536 + 7 * 16;
    assert_eq!(layer_bytes(&shape, &settings), 1024 * 4 * numbers);

    // q alone: no input before the MLP or of down is kept.
    let mut few = settings.clone();
    let Trained::LowRank(adapter) = &mut few.trained else {
        panic!()
    };
    adapter.projections = vec![Projection::Query];
    let numbers = 3 * 576 + (2 * 576 + 2 * 192 + 9) + 2 * 1536 + 16;
    assert_eq!(layer_bytes(&shape, &few), 1024 * 4 * numbers);

    let mut dora = settings.clone();
    let magnitudes = |settings: &mut Settings, magnitudes| {
        if let Trained::LowRank(adapter) = &mut settings.trained {
            adapter.magnitudes = magnitudes;
        }
    };
    let plain = layer_bytes(&shape, &settings);
    magnitudes(&mut dora, Magnitudes::Trained);
    // q and o, k and v, gate and up, down.
    let outputs = 2 * 576 + 2 * 192 + 2 * 1536 + 576;
    assert_eq!(layer_bytes(&shape, &dora), plain + 1024 * 4 * outputs);
    magnitudes(&mut dora, Magnitudes::WithDropout);
    // Six read the residual stream or the heads, and down what is gated; two norms' outputs and what
    // is gated are read by nobody else.
    let (inputs, shared) = (6 * 576 + 1536, 2 * 576 + 1536);
    let more = outputs + 2 * inputs - shared;
    assert_eq!(layer_bytes(&shape, &dora), plain + 1024 * 4 * more);

    let mut full = settings;
    full.trained = Trained::Everything;
    let numbers = 4 * 576 + (2 * 576 + 2 * 192 + 9) + 3 * 1536;
    assert_eq!(layer_bytes(&shape, &full), 1024 * 4 * numbers);
}

#[test]
fn optimizer_states_are_those_of_the_optimizer() {
    let rules = [
        r#"{"type": "adamw"}"#,
        r#"{"type": "adamw", "eight_bit": true}"#,
        r#"{"type": "lion"}"#,
        r#"{"type": "lion", "eight_bit": true}"#,
    ];
    for rule in rules {
        let rule: Rule = serde_json::from_str(rule).unwrap();
        let sizes = [(100, 2), (4096, 1), (10_000, 3)];
        let moments = sizes.iter().flat_map(|&(len, count)| {
            (0..count).map(move |index| (format!("{len}.{index}"), rule.init(len)))
        });
        let optimizer = Optimizer::from_parts(rule, 0, moments.collect());
        let sizes = sizes.map(|(len, count)| (len as u64, count));
        assert_eq!(states::bytes(&rule, &sizes), optimizer.bytes() as u64);
    }
}

#[test]
fn recompute_keeps_inputs_and_one_layer() {
    let shape = smollm2();
    let mut settings = settings(&shape);
    let kept = Plan::of(&shape, &settings).bytes_of("activations");
    settings.recompute = true;
    let again = Plan::of(&shape, &settings).bytes_of("activations");
    let layer = layer_bytes(&shape, &settings);
    assert_eq!(kept, 30 * layer);
    assert_eq!(again, layer + 32 * 1024 * 576 * 4);
    assert!(again * 4 < kept);
}

#[test]
fn a_plan_is_a_table() {
    let shape = smollm2();
    let plan = Plan::of(&shape, &settings(&shape));
    insta::assert_snapshot!(plan.to_string());
    let measured = Measured::peak(&plan, plan.peak_bytes() / 10 * 11);
    let measured = measured.with(&plan, "base weights", plan.bytes_of("base weights"));
    assert!((measured.ratio() - 1.1).abs() < 1e-6);
    insta::assert_snapshot!(measured.to_string());
}

#[test]
fn what_fits_keeps_the_rows_of_a_step() {
    let shape = smollm2();
    let mut wanted = settings(&shape);
    (wanted.batch, wanted.accumulation) = (16, 2);
    let peak = Plan::of(&shape, &wanted).peak_bytes();
    let mut last = u64::MAX;
    let mut found = Vec::new();
    for budget in [peak, peak / 2, peak / 4, peak / 8, 320 << 20, 240 << 20] {
        match fitting(&shape, &wanted, budget) {
            Ok(fit) => {
                let got = &fit.plan.settings;
                assert_eq!(got.batch * got.accumulation, 32);
                assert!(fit.plan.peak_bytes() <= budget && fit.plan.peak_bytes() <= last);
                last = fit.plan.peak_bytes();
                found.push(format!("{}: {}", Bytes(budget), fit.changes.join("; ")));
            }
            Err(error) => found.push(format!("{}: {error}", Bytes(budget))),
        }
    }
    insta::assert_snapshot!(found.join("\n"));
    wanted.batch = 0;
    let error = fitting(&shape, &wanted, 1 << 40).unwrap_err().to_string();
    assert_eq!(error, "batch times accumulation must be at least 1, got 0");
}

#[test]
fn absurd_sizes_do_not_overflow() {
    let shape = smollm2();
    let mut wanted = settings(&shape);
    (wanted.batch, wanted.seq, wanted.accumulation) = (1 << 20, 1 << 20, 1);
    let plan = Plan::of(&shape, &wanted);
    assert!(plan.peak_bytes() > 1 << 50);
    assert!(plan.to_string().contains("GiB"));
}
