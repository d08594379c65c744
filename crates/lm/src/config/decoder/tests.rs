use serde_json::{Value, json};

use super::*;
use crate::error::Error;

fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 272, "hidden_size": 64, "intermediate_size": 112,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64
    })
}

fn read(changes: &[(&str, Value)]) -> Result<DecoderConfig> {
    let mut value = llama();
    for (key, change) in changes {
        value[*key] = change.clone();
    }
    DecoderConfig::read(&ConfigFile::from_value(value, "config.json").unwrap())
}

#[test]
fn llama_defaults_are_those_of_transformers() {
    let config = read(&[]).unwrap();
    assert_eq!(config.head_dim, 16);
    assert_eq!(config.num_key_value_heads, 4);
    assert_eq!(config.norm, Norm::Rms { eps: 1e-6 });
    assert_eq!(config.attention_multiplier, 0.25);
    assert!(!config.tie_word_embeddings);
    assert_eq!(
        config.layers,
        [LayerConfig {
            sliding_window: None,
            rope: Some(0)
        }; 2]
    );
}

#[test]
fn gemma3_alternates_local_and_global_layers() {
    let config = read(&[
        ("model_type", json!("gemma3_text")),
        ("num_hidden_layers", json!(7)),
        ("sliding_window", json!(8)),
        ("rope_theta", json!(1e6)),
    ])
    .unwrap();
    let local = LayerConfig {
        sliding_window: Some(8),
        rope: Some(1),
    };
    let global = LayerConfig {
        sliding_window: None,
        rope: Some(0),
    };
    assert_eq!(
        config.layers,
        [local, local, local, local, local, global, local]
    );
    assert_eq!(config.ropes[1].rope_theta, 10_000.0);
    assert_eq!(config.embedding_multiplier, 8.0);
    assert!(config.tie_word_embeddings);
}

#[test]
fn smollm3_leaves_positions_out_of_every_fourth_layer() {
    let config = read(&[
        ("model_type", json!("smollm3")),
        ("num_hidden_layers", json!(4)),
    ])
    .unwrap();
    let ropes: Vec<_> = config.layers.iter().map(|layer| layer.rope).collect();
    assert_eq!(ropes, [Some(0), Some(0), Some(0), None]);
    assert!(config.tie_word_embeddings);
}

#[test]
fn contradictions_are_named() {
    for (changes, expected) in [
        (
            vec![("num_key_value_heads", json!(3))],
            "config.json: num_key_value_heads must divide num_attention_heads 4, got 3",
        ),
        (
            vec![("num_attention_heads", json!(5))],
            "config.json: num_attention_heads must divide hidden_size 64, got 5",
        ),
        (
            vec![("vocab_size", Value::Null)],
            "config.json: vocab_size is missing",
        ),
        (
            vec![("rms_norm_eps", json!(0.0))],
            "config.json: rms_norm_eps must be positive, got 0",
        ),
        (
            vec![("hidden_act", json!("relu6"))],
            "hidden_act = relu6 is not supported: use silu or gelu_pytorch_tanh",
        ),
        (
            vec![("num_hidden_layers", json!(1_000_000))],
            "config.json: num_hidden_layers must be at most 4096, got 1000000",
        ),
        (
            vec![("layer_types", json!(["full_attention"]))],
            "config.json: layer_types must hold 2 entries, got 1",
        ),
    ] {
        assert_eq!(read(&changes).unwrap_err().to_string(), expected);
    }
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() {
    let error = read(&[("model_type", json!("rwkv"))]).unwrap_err();
    assert!(
        matches!(&error, Error::UnsupportedArchitecture { model_type, supported }
        if model_type == "rwkv" && supported.iter().any(|name| name == "llama"))
    );
}
