//! Predicted memory beside what runs take: each in a process of its own.

use std::fs;

use flametune_testkit::fixture_path;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::stdout;
use crate::train::Workshop;

/// Sizes at which the parts of a plan outweigh the program.
const D_MODEL: usize = 256;
const LAYERS: usize = 6;
const D_FF: usize = 768;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// A model of seeded numbers, stored in bf16, and rows that are as long as it reads.
fn workshop() -> Workshop {
    let workshop = Workshop::new();
    let text = fs::read_to_string(fixture_path("training/base/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (field, value) in [
        ("hidden_size", D_MODEL),
        ("intermediate_size", D_FF),
        ("num_hidden_layers", LAYERS),
        ("num_attention_heads", HEADS),
        ("num_key_value_heads", KV_HEADS),
        ("head_dim", D_MODEL / HEADS),
        ("max_position_embeddings", 512),
    ] {
        config[field] = value.into();
    }
    config["tie_word_embeddings"] = true.into();
    config["dtype"] = "bfloat16".into();
    let model = workshop.path("model");
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let vocab = usize::try_from(config["vocab_size"].as_u64().unwrap()).unwrap();
    let kv = KV_HEADS * D_MODEL / HEADS;
    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vec![vocab, D_MODEL]),
        ("model.norm".to_owned(), vec![D_MODEL]),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm", &[D_MODEL]);
        add("post_attention_layernorm", &[D_MODEL]);
        add("self_attn.q_proj", &[D_MODEL, D_MODEL]);
        add("self_attn.k_proj", &[kv, D_MODEL]);
        add("self_attn.v_proj", &[kv, D_MODEL]);
        add("self_attn.o_proj", &[D_MODEL, D_MODEL]);
        add("mlp.gate_proj", &[D_FF, D_MODEL]);
        add("mlp.up_proj", &[D_FF, D_MODEL]);
        add("mlp.down_proj", &[D_MODEL, D_FF]);
    }
    let mut random = 1_u64;
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let bytes = (0..shape.iter().product::<usize>()).flat_map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let even = (random >> 40) as f32 / (1_u64 << 24) as f32 - 0.5;
                let value = if shape.len() == 1 { 1.0 } else { 0.2 * even };
                ((value.to_bits() >> 16) as u16).to_le_bytes()
            });
            let bytes = bytes.collect();
            (format!("{name}.weight"), shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap();
        (name, view)
    });
    let file = model.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).unwrap();
    let words = "one two three four five six seven eight nine ten ".repeat(12);
    let line = json!({"instruction": "Count", "output": words}).to_string() + "\n";
    fs::write(workshop.path("data.jsonl"), line.repeat(64)).unwrap();
    workshop
}

/// What was measured over what was predicted, of the peak of a plan.
fn ratio(workshop: &Workshop, sets: &[&str]) -> f64 {
    let mut command = crate::flametune();
    command.arg("plan").arg(workshop.path("recipe.toml"));
    let common = [
        "data.max_length=384",
        "data.truncation=right",
        "data.validation=0.0",
        "optim.gradient_accumulation_steps=1",
        "model.dtype=bf16",
    ];
    for set in common.iter().chain(sets) {
        command.args(["--set", set]);
    }
    let text = stdout(&mut command);
    let peak = text
        .lines()
        .rfind(|line| line.trim_start().starts_with("peak"));
    let ratio = peak.unwrap().split_whitespace().next_back().unwrap();
    ratio.parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn plans_agree_with_what_runs_take() {
    let workshop = workshop();
    let adapters: [(&str, &[&str]); 5] = [
        ("lora", &[]),
        ("dora with dropout", &["adapter.use_dora=true"]),
        (
            "dora",
            &["adapter.use_dora=true", "adapter.lora_dropout=0.0"],
        ),
        (
            "dora on packed weights",
            &["adapter.use_dora=true", "quant.kind=nf4"],
        ),
        (
            "recompute",
            &["adapter.use_dora=true", "optim.recompute=true"],
        ),
    ];
    let mut ratios: Vec<(&str, f64)> = adapters
        .iter()
        .map(|(name, sets)| (*name, ratio(&workshop, sets)))
        .collect();
    workshop.write_recipe("");
    ratios.push(("full", ratio(&workshop, &[])));
    let rounding = ["optim.stochastic_rounding=true"];
    ratios.push(("full in 16 bits", ratio(&workshop, &rounding)));
    for (name, ratio) in &ratios {
        // The allocator keeps some of what was freed, and not all parts are there at one time.
        assert!(
            (0.6..1.15).contains(ratio),
            "{name}: {ratio}, of {ratios:?}"
        );
    }
}
