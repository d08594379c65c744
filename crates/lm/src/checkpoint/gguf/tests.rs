//! Files of every architecture, written as llama.cpp's converter writes them.

use flametune_testkit::{asset_path, fixture_path};
use half::{bf16, f16};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;

fn fixture(name: &str) -> std::path::PathBuf {
    fixture_path(format!("gguf/{name}"))
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

/// The weight that the generator gives to element `index` of the tensor `name`.
fn weight(seed: u64, index: usize) -> f32 {
    const MASK: u64 = u32::MAX as u64;
    let mixed = (index as u64 * 2_654_435_761 + seed) & MASK;
    let mixed = ((mixed ^ (mixed >> 15)) * 2_246_822_519) & MASK;
    ((mixed >> 20) % 512) as f32 / 256.0 - 1.0
}

fn weights(name: &str, elements: usize) -> Vec<f32> {
    let digest = Sha256::digest(name.as_bytes());
    let seed = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
    (0..elements)
        .map(|index| weight(seed.into(), index))
        .collect()
}

fn each_case(check: impl Fn(&str, &GgufCheckpoint, &Value)) {
    let cases = golden("architectures.json");
    let cases = cases.as_object().unwrap();
    assert_eq!(cases.len(), 12);
    for (case, expected) in cases {
        let checkpoint = GgufCheckpoint::open(fixture(&format!("{case}.gguf"))).unwrap();
        check(case, &checkpoint, expected);
    }
}

#[test]
fn tensors_are_those_that_were_converted() {
    each_case(|case, checkpoint, expected| {
        let shapes = expected["tensors"].as_object().unwrap();
        let mut names: Vec<_> = shapes.keys().cloned().collect();
        names.sort_unstable();
        assert_eq!(checkpoint.names(), names, "{case}");
        for (name, shape) in shapes {
            let info = checkpoint.info(name).unwrap();
            assert_eq!(json!(info.shape), *shape, "{case}: {name}");
            let data = checkpoint.read(name, DType::F32).unwrap();
            assert_eq!(json!(data.shape().as_slice()), *shape, "{case}: {name}");
            let got = data.try_to_vec::<f32>().unwrap();
            assert_eq!(got, weights(name, got.len()), "{case}: {name}");
        }
    });
}

#[test]
fn half_precision_rounds_the_same_values() {
    for case in ["llama_linear_bias", "gemma2", "gpt2"] {
        let checkpoint = GgufCheckpoint::open(fixture(&format!("{case}.gguf"))).unwrap();
        for name in checkpoint.names() {
            let exact: Vec<f32> = checkpoint
                .read(&name, DType::F32)
                .unwrap()
                .try_to_vec()
                .unwrap();
            let half: Vec<f16> = checkpoint
                .read(&name, DType::F16)
                .unwrap()
                .try_to_vec()
                .unwrap();
            let brain: Vec<bf16> = checkpoint
                .read(&name, DType::BF16)
                .unwrap()
                .try_to_vec()
                .unwrap();
            assert!(
                half.iter()
                    .zip(&exact)
                    .all(|(h, x)| *h == f16::from_f32(*x)),
                "{name}"
            );
            assert!(
                brain
                    .iter()
                    .zip(&exact)
                    .all(|(b, x)| *b == bf16::from_f32(*x)),
                "{name}"
            );
        }
    }
}

/// The golden's fields are all there and equal; fields beyond them are listed.
#[test]
fn configurations_are_those_that_were_converted() {
    each_case(|case, checkpoint, expected| {
        let mut expected = expected["config"].clone();
        if case == "phi3_longrope" {
            // The file states what Python derives.
            let factor = (1.0 + 2f64.ln() / 32f64.ln()).sqrt();
            let got = &checkpoint.config()["rope_parameters"]["attention_factor"];
            assert!((got.as_f64().unwrap() - factor).abs() < 1e-6);
            expected["rope_parameters"]["attention_factor"] = got.clone();
        }
        let got = checkpoint.config().as_object().unwrap();
        for (field, value) in expected.as_object().unwrap() {
            if let Some(default) = implied(case, field) {
                assert_eq!(*value, default, "{case}: {field}");
                assert!(got.get(field).is_none(), "{case}: {field}");
                continue;
            }
            assert_eq!(
                got.get(field),
                Some(&without_defaults(value)),
                "{case}: {field}"
            );
        }
        for (field, value) in got {
            // Some families leave the width of heads to division.
            if field != "architectures" && field != "head_dim" && !value.is_null() {
                assert!(expected.get(field).is_some(), "{case}: {field} = {value}");
            }
        }
    });
}

/// The value of a field that only Python's configuration states, because it is the same for every
/// model of the family.
fn implied(case: &str, field: &str) -> Option<Value> {
    match (case, field) {
        ("gemma", "attention_bias") => Some(json!(false)),
        ("qwen2", "layer_types") | ("qwen3", "layer_types") => {
            Some(json!(["full_attention", "full_attention"]))
        }
        _ => None,
    }
}

fn without_defaults(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|field, value| field != "partial_rotary_factor" || *value != 1.0);
    }
    value
}

#[test]
fn vocabularies_are_plain_data() {
    let checkpoint = GgufCheckpoint::open(fixture("llama.gguf")).unwrap();
    let vocabulary = checkpoint.vocabulary().unwrap().unwrap();
    assert_eq!(vocabulary.model, "llama");
    assert_eq!(vocabulary.architecture.as_deref(), Some("llama"));
    assert_eq!(
        (vocabulary.tokens.len(), &*vocabulary.tokens[39]),
        (40, "<39>")
    );
    assert_eq!(vocabulary.scores.unwrap()[7], -7.0);
    assert_eq!(vocabulary.token_types.unwrap()[..4], [3, 3, 3, 1]);
    assert_eq!(
        (vocabulary.bos_token_id, vocabulary.unknown_token_id),
        (Some(1), None)
    );
}

#[test]
fn what_is_not_there_or_not_possible_is_named() {
    let checkpoint = GgufCheckpoint::open(fixture("llama.gguf")).unwrap();
    let missing = checkpoint
        .read("model.layers.2.mlp.up_proj.weight", DType::F32)
        .unwrap_err();
    assert!(
        missing
            .to_string()
            .ends_with("tensor `model.layers.2.mlp.up_proj.weight` is missing")
    );
    let wanted = checkpoint
        .read("model.norm.weight", DType::I32)
        .unwrap_err();
    assert!(
        matches!(wanted, Error::UnsupportedConversion { .. }),
        "{wanted}"
    );
}

/// The file of a case with one run of bytes replaced by another of the same length.
fn edited(case: &str, from: &[u8], to: &[u8]) -> Result<GgufCheckpoint> {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(fixture(case)).unwrap();
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    GgufCheckpoint::from_file(GgufFile::from_bytes("m.gguf", bytes)?)
}

/// A key, its type `u32` and a value.
fn pair(key: &str, value: u32) -> Vec<u8> {
    [key.as_bytes(), &4u32.to_le_bytes(), &value.to_le_bytes()].concat()
}

#[test]
fn unknown_architectures_and_tensors_are_refused() {
    let message = |from: &str, to: &str| {
        edited("llama.gguf", from.as_bytes(), to.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        edited(
            "llama.gguf",
            b"\x05\0\0\0\0\0\0\0llama",
            b"\x05\0\0\0\0\0\0\0mamba"
        )
        .unwrap_err()
        .to_string(),
        "model_type `mamba` is not supported, known: llama, qwen2, qwen3, gemma, gemma2, gemma3, phi3, gpt2"
    );
    assert_eq!(
        message("blk.1.attn_q.weight", "blk.1.attn_x.weight"),
        "m.gguf: 1 unknown tensor(s): blk.1.attn_x.weight"
    );
    assert_eq!(
        message("llama.block_count", "llama.block_kount"),
        "m.gguf: key `llama.block_count` is missing"
    );
}

#[test]
fn contradictions_between_metadata_and_tensors_are_named() {
    let message = |key: &str, from: u32, to: u32| {
        edited("llama.gguf", &pair(key, from), &pair(key, to))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message("llama.attention.head_count_kv", 2, 4),
        "m.gguf: tensor `model.layers.0.self_attn.k_proj.weight` must have shape [32, 32], got [16, 32]"
    );
    assert_eq!(
        message("llama.attention.head_count", 4, 0),
        "m.gguf: key `llama.attention.head_count` must be a divisor of embedding_length 32, got 0"
    );
    assert_eq!(
        message("llama.block_count", 2, u32::MAX),
        "m.gguf: key `llama.block_count` must be at most the number of tensors, 21, got 4294967295"
    );
    assert_eq!(
        message("llama.rope.dimension_count", 8, 16),
        "m.gguf: key `llama.rope.dimension_count` must be at most the width of a head, 8, got 16"
    );
}

#[test]
fn other_frequency_factors_stay_as_they_are() {
    let mut bytes = 32f32.to_le_bytes().to_vec();
    bytes.extend(32f32.to_le_bytes());
    let mut changed = 31f32.to_le_bytes().to_vec();
    changed.extend(32f32.to_le_bytes());
    let checkpoint = edited("llama_llama3.gguf", &bytes, &changed).unwrap();
    let rope = &checkpoint.config()["rope_parameters"];
    assert_eq!(rope["rope_type"], "longrope");
    assert_eq!(
        (&rope["attention_factor"], &rope["rope_theta"]),
        (&json!(1.0), &json!(500000.0))
    );
    assert_eq!(rope["long_factor"], rope["short_factor"]);
    assert_eq!(rope["long_factor"].as_array().unwrap().len(), 8);
}

proptest::proptest! {
    /// Damaged headers give a checkpoint or an error.
    #[test]
    fn damaged_headers_do_not_panic(
        changes in proptest::collection::vec(
            (proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()),
            1..6,
        ),
        case in proptest::sample::select(vec!["llama_linear_bias", "gemma3", "phi3_longrope", "gpt2"]),
    ) {
        let mut bytes = std::fs::read(fixture(&format!("{case}.gguf"))).unwrap();
        for (at, value) in changes {
            let at = at.index(4096);
            bytes[at] = value;
        }
        let file = GgufFile::from_bytes("damaged.gguf", bytes);
        if let Some(checkpoint) = file.ok().and_then(|file| GgufCheckpoint::from_file(file).ok()) {
            for name in checkpoint.names() {
                let _ = checkpoint.read(&name, DType::F32);
            }
            let _ = checkpoint.vocabulary();
        }
    }
}

/// The list as f32, which it was written from: the reader of JSON may miss a double by a bit.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the numbers were f32 before"
)]
fn floats(list: &Value) -> Vec<f32> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_f64().unwrap() as f32)
        .collect()
}

#[test]
fn smollm2_is_what_transformers_reads() {
    let golden = golden("smollm2.json");
    let file = golden["file"].as_str().unwrap();
    let Some(path) = asset_path("smollm2-135m-instruct", file) else {
        return;
    };
    let checkpoint = GgufCheckpoint::open(&path).unwrap();
    assert_eq!(checkpoint.names().len(), 272);

    for (field, value) in golden["config"].as_object().unwrap() {
        let got = &checkpoint.config()[field];
        match (got.as_f64(), value.as_f64()) {
            (Some(got), Some(value)) => assert!((got - value).abs() <= 1e-6 * value, "{field}"),
            _ => assert_eq!(got, value, "{field}"),
        }
    }
    for (name, expected) in golden["tensors"].as_object().unwrap() {
        let data = checkpoint.read(name, DType::F32).unwrap();
        assert_eq!(json!(data.shape().as_slice()), expected["shape"], "{name}");
        let row = *data.shape().as_slice().last().unwrap();
        let values = data.try_to_vec::<f32>().unwrap();
        let rows = values.len() / row;
        let second = (rows - 1).min(1) * row;
        assert_eq!(values[..4], floats(&expected["first"]), "{name}");
        assert_eq!(
            values[second..second + 4],
            floats(&expected["second_row"]),
            "{name}"
        );
        assert_eq!(
            values[values.len() - 4..],
            floats(&expected["last"]),
            "{name}"
        );
        // The sums are of doubles; only the order of summation differs.
        let close = |got: f64, key: &str| {
            let expected = expected[key].as_f64().unwrap();
            assert!(
                (got - expected).abs() < 1e-9 * values.len() as f64,
                "{name} {key}: {got}"
            );
        };
        close(values.iter().map(|&x| f64::from(x)).sum(), "sum");
        close(
            values.iter().map(|&x| f64::from(x) * f64::from(x)).sum(),
            "sum_of_squares",
        );
    }
}

#[test]
fn every_tensor_of_smollm2_reads() {
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let Some(path) = asset_path("smollm2-135m-instruct", file) else {
        return;
    };
    let checkpoint = GgufCheckpoint::open(&path).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let elements: usize = checkpoint
            .names()
            .iter()
            .map(|name| checkpoint.read(name, dtype).unwrap().num_elements())
            .sum();
        assert_eq!(elements, 134_515_008);
    }
}
