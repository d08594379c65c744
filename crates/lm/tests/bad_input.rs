//! Checkpoints and batches that are wrong: each is refused with a message that says where.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use flametune_lm::{CausalLm, Checkpoint, Error, LoadOptions, TokenBatch};

use crate::models::{Golden, base};

/// A copy of the golden llama with a changed configuration.
fn altered(folder: &Path, change: impl FnOnce(&mut serde_json::Value)) -> Result<CausalLm, Error> {
    let golden = Golden::open("llama");
    fs::copy(
        golden.folder.join("model.safetensors"),
        folder.join("model.safetensors"),
    )
    .unwrap();
    let text = fs::read_to_string(golden.folder.join("config.json")).unwrap();
    let mut config = serde_json::from_str(&text).unwrap();
    change(&mut config);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let checkpoint = Checkpoint::open(folder)?;
    CausalLm::load(&checkpoint, &LoadOptions::f32(&Device::flex()), &mut |_| {})
}

#[test]
fn a_configuration_that_does_not_fit_the_weights_names_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let error = altered(folder.path(), |config| config["hidden_size"] = 32.into()).unwrap_err();
    assert!(
        matches!(&error, Error::ShapeMismatch { tensor, expected, got, .. }
            if tensor == "model.embed_tokens.weight" && *expected == [272, 32] && *got == [272, 64]),
        "{error}"
    );
    let error = altered(folder.path(), |config| {
        config["num_hidden_layers"] = 3.into()
    })
    .unwrap_err();
    assert!(
        matches!(&error, Error::MissingTensor { name, .. }
            if name == "model.layers.2.self_attn.q_proj.weight"),
        "{error}"
    );
    let error = altered(folder.path(), |config| {
        config["num_hidden_layers"] = 1.into()
    })
    .unwrap_err();
    assert!(
        matches!(&error, Error::UnknownTensors { names, .. }
            if names.iter().all(|name| name.starts_with("model.layers.1.")) && names.len() == 9),
        "{error}"
    );
}

#[test]
fn an_unknown_architecture_is_refused_before_any_weight_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let error = altered(folder.path(), |config| config["model_type"] = "rwkv".into()).unwrap_err();
    assert!(
        matches!(&error, Error::UnsupportedArchitecture { model_type, .. } if model_type == "rwkv")
    );
}

#[test]
fn broken_configurations_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    altered(folder.path(), |_| {}).unwrap();
    fs::write(folder.path().join("config.json"), "{\"hidden_size\": ").unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::InvalidJson { file, .. } if file.ends_with("config.json")));
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::NoWeights { .. }), "{error}");
    let error = Checkpoint::open(folder.path().join("absent")).unwrap_err();
    assert!(
        matches!(&error, Error::Io { .. } | Error::Quant(_)),
        "{error}"
    );
}

#[test]
fn tokens_outside_the_vocabulary_and_overfull_caches_are_refused() {
    let model = Golden::open("llama").model(&Device::flex());
    let batch = TokenBatch::from_rows(&[vec![1, 2, 272]]).unwrap();
    let error = model.forward(&batch, None, &base()).unwrap_err();
    assert!(matches!(
        error,
        Error::TokenOutOfRange {
            id: 272,
            vocab_size: 272,
            position: 2
        }
    ));

    let mut cache = model.new_cache(1, 2);
    let batch = TokenBatch::from_rows(&[vec![1, 2, 3]]).unwrap();
    let error = model
        .forward(&batch, Some(&mut cache), &base())
        .unwrap_err();
    assert!(matches!(
        error,
        Error::ContextOverflow {
            requested: 3,
            limit: 2
        }
    ));
    assert!(cache.is_empty());
}

#[test]
fn learned_positions_end_where_their_table_ends() {
    let model = Golden::open("gpt2").model(&Device::flex());
    let batch = TokenBatch::from_rows(&[vec![1; 129]]).unwrap();
    let error = model.forward(&batch, None, &base()).unwrap_err();
    assert!(matches!(
        error,
        Error::ContextOverflow {
            requested: 129,
            limit: 128
        }
    ));
}

#[test]
fn a_model_without_a_head_says_so() {
    let CausalLm::Decoder(model) = Golden::open("llama").model(&Device::flex()) else {
        panic!("a decoder")
    };
    let batch = TokenBatch::from_rows(&[vec![1]]).unwrap();
    let error = model.classify(&batch, &base()).unwrap_err();
    assert_eq!(error.to_string(), "the model has no `score` head");
}
