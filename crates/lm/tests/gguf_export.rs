//! Models written as GGUF files and read back.

use burn::tensor::DType;
use flametune_lm::{
    Checkpoint, ConfigFile, DecoderConfig, Error, GgufCheckpoint, GgufPlan, GgufSource,
    TensorSource,
};
use flametune_quant::gguf::{GgmlType, GgufSpec, write_gguf};
use flametune_testkit::fixture_path;
use serde_json::json;

const MODELS: [&str; 9] = [
    "llama",
    "llama_mha_headdim",
    "llama_rope_linear",
    "llama_rope_llama3",
    "llama_rope_yarn",
    "llama_rope_yarn_custom",
    "mistral_swa",
    "qwen2",
    "qwen3",
];

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(fixture_path(format!("models/{name}"))).unwrap()
}

fn shapes(checkpoint: &Checkpoint) -> Vec<(String, Vec<usize>)> {
    let tensors = checkpoint.tensors();
    let names = tensors.names().into_iter();
    names
        .map(|name| {
            let shape = tensors.info(&name).unwrap().shape;
            (name, shape)
        })
        .collect()
}

fn numbers(source: &dyn TensorSource, name: &str) -> Vec<f32> {
    source.read(name, DType::F32).unwrap().try_to_vec().unwrap()
}

/// Writes a model in f32 and opens it again.
fn there_and_back(checkpoint: &Checkpoint, folder: &std::path::Path) -> GgufCheckpoint {
    let plan = GgufPlan::new(checkpoint.config(), &shapes(checkpoint)).unwrap();
    let specs: Vec<GgufSpec> = plan
        .tensors
        .iter()
        .map(|part| GgufSpec {
            name: part.name.clone(),
            shape: part.shape.clone(),
            kind: GgmlType::F32,
        })
        .collect();
    let mut parts = plan.tensors.iter();
    let path = folder.join("model.gguf");
    let staged = write_gguf(&path, &plan.metadata, &specs, |_| {
        let part = parts.next().unwrap();
        Ok::<_, flametune_quant::Error>(match &part.source {
            GgufSource::Numbers(numbers) => numbers.clone(),
            GgufSource::Tensor { name, rows } => {
                let width = part.shape.iter().skip(1).product();
                rows.arrange(numbers(checkpoint.tensors(), name), width)
            }
        })
    })
    .unwrap();
    staged.publish().unwrap();
    GgufCheckpoint::open(&path).unwrap()
}

#[test]
fn tensors_and_configurations_come_back() {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = open(model);
        let back = there_and_back(&checkpoint, folder.path());
        assert_eq!(back.names(), {
            let mut names = checkpoint.tensors().names();
            names.sort_unstable();
            names
        });
        for name in back.names() {
            assert_eq!(
                numbers(&back, &name),
                numbers(checkpoint.tensors(), &name),
                "{model}: {name}"
            );
        }
        let config = ConfigFile::from_value(back.config().clone(), "model.gguf").unwrap();
        let (got, expected) = (
            DecoderConfig::read(&config).unwrap(),
            DecoderConfig::read(checkpoint.config()).unwrap(),
        );
        let mut got = got;
        for (got, expected) in got.ropes.iter_mut().zip(&expected.ropes) {
            // Single precision, see below.
            assert!(
                (got.attention_factor - expected.attention_factor).abs() < 1e-6,
                "{model}"
            );
            got.attention_factor = expected.attention_factor;
            if model == "llama_rope_llama3" {
                // A file holds the divisors of frequencies, and not what they were made of.
                got.scaling = expected.scaling.clone();
            }
        }
        assert_eq!(got, expected, "{model}");
    }
}

#[test]
fn rows_are_restored_as_they_were_arranged() {
    let checkpoint = open("llama");
    let plan = GgufPlan::new(checkpoint.config(), &shapes(&checkpoint)).unwrap();
    let part = plan
        .tensors
        .iter()
        .find(|part| part.name == "blk.0.attn_q.weight")
        .unwrap();
    let GgufSource::Tensor { rows, .. } = part.source else {
        panic!("queries are a tensor");
    };
    let values: Vec<f32> = (0..part.shape.iter().product())
        .map(|i: usize| i as f32)
        .collect();
    let arranged = rows.arrange(values.clone(), part.shape[1]);
    assert_ne!(arranged, values);
    assert_eq!(rows.restore(arranged, part.shape[1]), values);
}

#[test]
fn what_has_no_form_is_refused_by_name() {
    let plan = |model: &str| {
        let checkpoint = open(model);
        GgufPlan::new(checkpoint.config(), &shapes(&checkpoint))
    };
    for model in ["gemma", "gpt2", "mixtral", "phi3", "olmo2", "granite"] {
        let error = plan(model).unwrap_err();
        assert!(
            matches!(error, Error::UnsupportedArchitecture { .. }),
            "{model}: {error}"
        );
    }
    assert!(matches!(
        plan("llama_rope_dynamic").unwrap_err(),
        Error::UnsupportedOption { .. }
    ));
    let checkpoint = open("llama");
    let mut tensors = shapes(&checkpoint);
    tensors.push(("model.layers.0.self_attn.extra.weight".to_owned(), vec![1]));
    let error = GgufPlan::new(checkpoint.config(), &tensors).unwrap_err();
    assert!(error.to_string().contains("extra.weight"), "{error}");
    let mut raw = serde_json::Value::Object(checkpoint.config().raw().clone());
    raw["num_hidden_layers"] = json!(1);
    let config = ConfigFile::from_value(raw, "config.json").unwrap();
    assert!(GgufPlan::new(&config, &shapes(&checkpoint)).is_err());
}
