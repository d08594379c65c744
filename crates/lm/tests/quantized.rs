//! Models with quantized layers: loaded as bitsandbytes stored them, quantized while they are
//! loaded, saved, and refused where something is wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{DType, Device, TensorData};
use flametune_lm::{
    AdapterPass, BertModel, CausalLm, Checkpoint, Error, LoadOptions, QuantizeOptions,
    SafetensorsCheckpoint, TensorSource, TensorSpec, TokenBatch, save_safetensors, stored_weights,
};
use flametune_peft::MergeOptions;
use flametune_quant::{BaseLinear, QuantConfig, QuantKind, WeightDtype};
use flametune_testkit::{Tolerance, assert_close, devices, fixture_path};
use safetensors::tensor::TensorView;

use crate::models::{CAUSAL, Golden, floats, logits, values};

/// What transformers saved with bitsandbytes.
const STORED: [(&str, QuantKind); 3] = [
    ("nf4_double", QuantKind::Nf4),
    ("fp4", QuantKind::Fp4),
    ("int8", QuantKind::Int8Vectorwise),
];

fn stored(name: &str) -> Golden {
    Golden {
        folder: fixture_path(format!("models_bnb/{name}")),
        tensors: flametune_testkit::fixture_safetensors(format!(
            "models_bnb/{name}/golden.safetensors"
        )),
    }
}

fn config(kind: QuantKind, block_size: usize, double_quant: bool) -> QuantConfig {
    QuantConfig {
        kind,
        block_size,
        double_quant,
        dtype: WeightDtype::F32,
    }
}

fn quantizing(config: QuantConfig) -> LoadOptions {
    LoadOptions::f32(&Device::flex()).with_quantize(QuantizeOptions::new(config))
}

fn quantized_names(model: &CausalLm) -> Vec<String> {
    let linears = model.linears().into_iter();
    linears
        .filter(|(_, linear)| matches!(linear.base_layer, BaseLinear::Quant(_)))
        .map(|(name, _)| name)
        .collect()
}

/// The same sums of the same numbers in f32, in another order; see the goldens of dense models.
fn f32_tolerance() -> Tolerance {
    Tolerance::rel_abs(1e-4, 1e-4)
}

#[test]
fn checkpoints_of_bitsandbytes_give_the_logits_of_their_dequantized_weights() {
    for device in devices() {
        for (name, kind) in STORED {
            let golden = stored(name);
            let model = golden.model(&device);
            let linears = model.linears();
            assert_eq!(linears.len(), 8);
            for (layer, linear) in &linears {
                match &linear.base_layer {
                    BaseLinear::Dense(_) => assert_eq!(layer, "lm_head"),
                    BaseLinear::Quant(quant) => assert_eq!(quant.kind(), kind, "{layer}"),
                }
            }
            let batch = TokenBatch::from_rows(&golden.ids("input_ids")).unwrap();
            let expected = golden.floats("logits");
            assert_close(&logits(&model, &batch), &expected, f32_tolerance(), name);
        }
    }
}

#[test]
fn checkpoints_of_bitsandbytes_are_saved_as_they_were() {
    for (name, _) in STORED {
        let golden = stored(name);
        let checkpoint = golden.checkpoint();
        let options = LoadOptions::new(&Device::flex(), DType::BF16, DType::BF16);
        let model = golden.model_as(&options);
        let folder = tempfile::tempdir().unwrap();
        let config = checkpoint.config();
        model
            .save_pretrained(folder.path(), config, usize::MAX)
            .unwrap();
        assert_same_files(&golden.folder, folder.path(), name);
        let again = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(again.config().raw(), config.raw(), "{name}");
    }
}

/// Asserts that two folders hold the same tensors, bit for bit.
fn assert_same_files(expected: &Path, got: &Path, what: &str) {
    let expected = SafetensorsCheckpoint::open(expected).unwrap();
    let got = SafetensorsCheckpoint::open(got).unwrap();
    assert_eq!(got.names(), expected.names(), "{what}");
    for name in expected.names() {
        let (a, b) = (expected.info(&name).unwrap(), got.info(&name).unwrap());
        assert_eq!((a.shape, a.dtype), (b.shape, b.dtype), "{what}: {name}");
        assert_eq!(expected.bytes(&name), got.bytes(&name), "{what}: {name}");
    }
}

/// Writes the checkpoint of `golden` with the dequantized numbers of the model's quantized layers.
fn write_dequantized(golden: &Golden, model: &CausalLm, folder: &Path) {
    let checkpoint = golden.checkpoint();
    let source = checkpoint.tensors();
    let mut dequantized: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (name, linear) in model.linears() {
        let BaseLinear::Quant(layer) = &linear.base_layer else {
            continue;
        };
        let mut numbers = layer.to_quant_tensor().unwrap().dequantize();
        if layer.fan_in_fan_out {
            let (rows, cols) = (layer.d_out(), layer.d_in());
            numbers = (0..rows * cols)
                .map(|i| numbers[i % rows * cols + i / rows])
                .collect();
        }
        dequantized.insert(format!("{name}.weight"), numbers);
    }
    let specs: Vec<TensorSpec> = source
        .names()
        .into_iter()
        .map(|name| TensorSpec {
            shape: source.info(&name).unwrap().shape,
            dtype: DType::F32,
            name,
        })
        .collect();
    save_safetensors(
        folder,
        &specs,
        usize::MAX,
        &BTreeMap::new(),
        |spec| match dequantized.remove(&spec.name) {
            Some(numbers) => Ok(TensorData::new(numbers, spec.shape.as_slice())),
            None => source.read(&spec.name, DType::F32),
        },
    )
    .unwrap();
    assert!(dequantized.is_empty(), "{:?}", dequantized.keys());
    fs::copy(
        golden.folder.join("config.json"),
        folder.join("config.json"),
    )
    .unwrap();
}

#[test]
fn quantized_models_equal_dense_ones_of_the_dequantized_weights() {
    let configs = [
        config(QuantKind::Nf4, 64, true),
        config(QuantKind::Fp4, 128, false),
        config(QuantKind::Int8, 64, true),
        config(QuantKind::Int8Vectorwise, 0, false),
    ];
    // Separate and fused projections, biases, a tied head, experts, and transposed weights.
    for name in ["llama", "phi3", "llama_tied_bias", "mixtral", "gpt2"] {
        let golden = Golden::open(name);
        for config in configs {
            let model = golden.model_as(&quantizing(config));
            let folder = tempfile::tempdir().unwrap();
            write_dequantized(&golden, &model, folder.path());
            let dense = Checkpoint::open(folder.path()).unwrap();
            let options = LoadOptions::f32(&Device::flex());
            let dense = CausalLm::load(&dense, &options, &mut |_| {}).unwrap();
            let batch = golden.batch();
            let what = format!("{name} as {}", config.kind);
            let (got, expected) = (logits(&model, &batch), logits(&dense, &batch));
            assert_close(&got, &expected, f32_tolerance(), &what);
        }
    }
}

#[test]
fn heads_routers_and_skipped_layers_stay_dense() {
    let nf4 = config(QuantKind::Nf4, 64, true);
    for name in CAUSAL {
        let golden = Golden::open(name);
        let model = golden.model_as(&quantizing(nf4));
        let all: Vec<String> = model.linears().into_iter().map(|(name, _)| name).collect();
        let expected: Vec<String> = all
            .iter()
            .filter(|name| *name != "lm_head" && !name.ends_with("block_sparse_moe.gate"))
            .cloned()
            .collect();
        assert_eq!(quantized_names(&model), expected, "{name}");
        // Every matrix of the file is one of them, or an embedding.
        let checkpoint = golden.checkpoint();
        let source = checkpoint.tensors();
        let matrices = source.names().into_iter().filter(|name| {
            let embeddings = ["embed_tokens.weight", "wte.weight", "wpe.weight"];
            source.info(name).unwrap().shape.len() == 2
                && !embeddings.iter().any(|end| name.ends_with(end))
        });
        let mut named: Vec<String> = all.iter().map(|name| format!("{name}.weight")).collect();
        named.sort();
        assert_eq!(named, matrices.collect::<Vec<_>>(), "{name}");
    }
    let skipped = ["lm_head", "down_proj", "layers.0.self_attn"]
        .map(str::to_owned)
        .to_vec();
    let quantize = QuantizeOptions::new(nf4).with_skipped(skipped);
    let options = LoadOptions::f32(&Device::flex()).with_quantize(quantize);
    let model = Golden::open("llama").model_as(&options);
    assert_eq!(
        quantized_names(&model),
        [
            "model.layers.0.mlp.gate_proj",
            "model.layers.0.mlp.up_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.1.self_attn.k_proj",
            "model.layers.1.self_attn.v_proj",
            "model.layers.1.self_attn.o_proj",
            "model.layers.1.mlp.gate_proj",
            "model.layers.1.mlp.up_proj",
        ]
    );
}

#[test]
fn quantized_models_are_saved_and_loaded_without_a_change_of_a_bit() {
    for name in ["llama", "llama_tied_bias", "gpt2"] {
        let golden = Golden::open(name);
        for config in [
            config(QuantKind::Nf4, 64, true),
            config(QuantKind::Nf4, 128, false),
            config(QuantKind::Fp4, 32, true),
            config(QuantKind::Int8Vectorwise, 0, false),
        ] {
            let model = golden.model_as(&quantizing(config));
            let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let checkpoint = golden.checkpoint();
            model
                .save_pretrained(first.path(), checkpoint.config(), 40_000)
                .unwrap();
            let saved = Checkpoint::open(first.path()).unwrap();
            let skipped = &saved.config().raw()["quantization_config"]["llm_int8_skip_modules"];
            assert_eq!(skipped, &serde_json::json!(["lm_head"]), "{name}");
            let options = LoadOptions::f32(&Device::flex());
            let again = CausalLm::load(&saved, &options, &mut |_| {}).unwrap();
            assert_eq!(quantized_names(&again), quantized_names(&model));
            let (got, expected) = (again.linears(), model.linears());
            for ((name, got), (_, expected)) in got.iter().zip(&expected) {
                if let (BaseLinear::Quant(got), BaseLinear::Quant(expected)) =
                    (&got.base_layer, &expected.base_layer)
                {
                    let (got, expected) = (got.to_quant_tensor(), expected.to_quant_tensor());
                    let (got, expected) = (got.unwrap(), expected.unwrap());
                    assert_eq!(got.codes(), expected.codes(), "{name}");
                    assert_eq!(got.scales(), expected.scales(), "{name}");
                }
            }
            again
                .save_pretrained(second.path(), saved.config(), usize::MAX)
                .unwrap();
            assert_same_files(first.path(), second.path(), name);
            assert_eq!(
                logits(&again, &golden.batch()),
                logits(&model, &golden.batch()),
                "{name}"
            );
        }
    }
}

#[test]
fn a_quantized_bert_is_saved_and_loaded() {
    let golden = Golden::open("bert_cls");
    let checkpoint = golden.checkpoint();
    let options = quantizing(config(QuantKind::Nf4, 64, false));
    let model = BertModel::from_checkpoint(&checkpoint, &options, &mut |_| {}).unwrap();
    let folder = tempfile::tempdir().unwrap();
    model
        .save_pretrained(folder.path(), checkpoint.config(), usize::MAX)
        .unwrap();
    let saved = Checkpoint::open(folder.path()).unwrap();
    let options = LoadOptions::f32(&Device::flex());
    let again = BertModel::from_checkpoint(&saved, &options, &mut |_| {}).unwrap();
    let scores = |model: &BertModel| {
        floats(
            &model
                .classify(&golden.batch(), &AdapterPass::default())
                .unwrap()
                .into_data(),
        )
    };
    assert_eq!(scores(&again), scores(&model));
    let packed = stored_weights(saved.tensors()).unwrap();
    let packed = packed.iter().filter(|weight| weight.packed.is_some());
    // Six a layer and the pooler; the classifier stays dense.
    assert_eq!(packed.count(), 2 * 6 + 1);
}

#[test]
fn stored_weights_count_parts_to_their_weight() {
    let checkpoint = stored("nf4_double").checkpoint();
    let weights = stored_weights(checkpoint.tensors()).unwrap();
    let total: usize = weights.iter().map(|weight| weight.bytes).sum();
    let source = checkpoint.tensors();
    let names = source.names().into_iter();
    let stored: usize = names.map(|name| source.info(&name).unwrap().bytes).sum();
    assert_eq!(total, stored);
    let up = weights
        .iter()
        .find(|weight| weight.name.ends_with("up_proj.weight"))
        .unwrap();
    assert_eq!(
        (up.shape.as_slice(), up.format.as_str()),
        (&[128, 64][..], "nf4")
    );
    let packed = up.packed.as_ref().unwrap();
    assert!(packed.double_quant);
    assert_eq!(packed.block_size, 64);
    assert_eq!(weights.len(), 12);
}

#[test]
fn gguf_files_are_quantized_too() {
    let checkpoint = Checkpoint::open(fixture_path("gguf/llama.gguf")).unwrap();
    let options = quantizing(config(QuantKind::Nf4, 64, true));
    let model = CausalLm::load(&checkpoint, &options, &mut |_| {}).unwrap();
    let dense = CausalLm::load(&checkpoint, &LoadOptions::f32(&Device::flex()), &mut |_| {});
    let (quantized, dense) = (model.linears(), dense.unwrap());
    let mut compared = 0;
    for ((name, quantized), (_, dense)) in quantized.iter().zip(dense.linears()) {
        let BaseLinear::Quant(layer) = &quantized.base_layer else {
            continue;
        };
        let numbers = floats(&dense.base_layer.dense_weight().into_data());
        let shape = [layer.d_out(), layer.d_in()];
        let expected = flametune_quant::quantize(&numbers, &shape, layer.config()).unwrap();
        assert_eq!(layer.to_quant_tensor().unwrap(), expected, "{name}");
        compared += 1;
    }
    assert!(compared > 6);
}

#[test]
fn kinds_without_a_form_on_disk_are_refused_before_anything_is_written() {
    let golden = Golden::open("llama");
    let model = golden.model_as(&quantizing(config(QuantKind::Int8, 64, false)));
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("saved");
    let error = model
        .save_pretrained(&target, golden.checkpoint().config(), usize::MAX)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "weight `model.layers.0.self_attn.q_proj.weight`: int8 weights have no place in \
         bitsandbytes' layout, which has nf4, fp4 and int8_vectorwise"
    );
    assert!(!target.exists());
}

type Stored = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

/// The golden NF4 checkpoint with changed tensors and configuration.
fn altered(
    options: &LoadOptions,
    change: impl FnOnce(&mut Stored, &mut serde_json::Value),
) -> Error {
    let golden = stored("nf4_double");
    let source = SafetensorsCheckpoint::open(&golden.folder).unwrap();
    let mut tensors: Stored = source
        .names()
        .into_iter()
        .map(|name| {
            let part = source.stored(&name).unwrap();
            let tensor = (part.dtype, part.shape, part.bytes.into_owned());
            (name, tensor)
        })
        .collect();
    let text = fs::read_to_string(golden.folder.join("config.json")).unwrap();
    let mut config = serde_json::from_str(&text).unwrap();
    change(&mut tensors, &mut config);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    CausalLm::load(&checkpoint, options, &mut |_| {}).unwrap_err()
}

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";

/// Replaces text in the quant state of the query projection.
fn edit_state(tensors: &mut Stored, from: &str, to: &str) {
    let name = format!("{Q_PROJ}.quant_state.bitsandbytes__nf4");
    let (_, shape, bytes) = tensors.get_mut(&name).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(text.contains(from), "{text}");
    *bytes = text.replace(from, to).into_bytes();
    *shape = vec![bytes.len()];
}

#[test]
fn broken_quantized_weights_name_file_and_tensor() {
    type Change = fn(&mut Stored, &mut serde_json::Value);
    let cases: [(Change, &str); 7] = [
        (
            |tensors, _| {
                tensors.remove(&format!("{Q_PROJ}.quant_state.bitsandbytes__nf4"));
            },
            "there is neither of the parts",
        ),
        (
            |tensors, _| {
                let (_, shape, bytes) = tensors.get_mut(Q_PROJ).unwrap();
                bytes.truncate(2000);
                *shape = vec![2000, 1];
            },
            "part `weight` must have 2048 bytes, got 2000",
        ),
        (
            |tensors, _| {
                tensors.remove(&format!("{Q_PROJ}.absmax"));
            },
            "part `absmax` is missing",
        ),
        (
            |tensors, _| edit_state(tensors, "\"blocksize\": 64", "\"blocksize\": 60"),
            "field `blocksize` of the quant state must be one of",
        ),
        (
            |tensors, _| edit_state(tensors, "\"blocksize\": 64", "\"blocksize\": 128"),
            "part `absmax` must have shape [32], got [64]",
        ),
        (
            |tensors, _| edit_state(tensors, "\"nf4\"", "\"af4\""),
            "field `quant_type` of the quant state must be \"nf4\"",
        ),
        (
            |tensors, _| edit_state(tensors, "[64, 64]", "[64, 9223372036854775807]"),
            "not overflow",
        ),
    ];
    let options = LoadOptions::f32(&Device::flex());
    for (change, expected) in cases {
        let error = altered(&options, change);
        assert!(matches!(&error, Error::StoredWeight { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains("model.safetensors: weight `model.layers.0"),
            "{message}"
        );
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn quantized_checkpoints_that_contradict_their_configuration_are_refused() {
    let options = LoadOptions::f32(&Device::flex());
    let error = altered(&options, |_, config| {
        config["intermediate_size"] = 256.into()
    });
    assert!(
        matches!(&error, Error::ShapeMismatch { tensor, expected, got, .. }
            if tensor.ends_with("mlp.down_proj.weight")
                && *expected == [64, 256] && *got == [64, 128]),
        "{error}"
    );
    let error = altered(&options, |_, config| {
        config["quantization_config"]["bnb_4bit_quant_type"] = "fp4".into();
    });
    assert!(
        error.to_string().ends_with(
            "quantization_config says fp4, but weight \
             `model.layers.0.self_attn.q_proj.weight` is stored as nf4"
        ),
        "{error}"
    );
    let error = altered(&options, |_, config| {
        config["quantization_config"]["quant_method"] = "awq".into();
    });
    assert!(matches!(error, Error::UnsupportedOption { .. }), "{error}");
    let error = altered(&options, |tensors, _| {
        let extra = tensors[&format!("{Q_PROJ}.quant_map")].clone();
        tensors.insert(
            "model.layers.9.self_attn.q_proj.weight.quant_map".to_owned(),
            extra,
        );
    });
    assert!(matches!(&error, Error::UnknownTensors { names, .. } if names.len() == 1));
    let again = quantizing(config(QuantKind::Nf4, 64, true));
    let error = altered(&again, |_, _| {});
    assert!(matches!(&error, Error::AlreadyQuantized { tensor, .. } if tensor == Q_PROJ));
}

#[test]
fn weights_that_cannot_be_quantized_name_file_and_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Golden::open("llama");
    let checkpoint = golden.checkpoint();
    let source = checkpoint.tensors();
    let specs: Vec<TensorSpec> = source
        .names()
        .into_iter()
        .map(|name| TensorSpec {
            shape: source.info(&name).unwrap().shape,
            dtype: DType::F32,
            name,
        })
        .collect();
    save_safetensors(
        folder.path(),
        &specs,
        usize::MAX,
        &BTreeMap::new(),
        |spec| {
            let mut data = source.read(&spec.name, DType::F32)?;
            if spec.name.ends_with("1.mlp.up_proj.weight") {
                data.as_mut_slice::<f32>().unwrap()[70] = f32::NAN;
            }
            Ok(data)
        },
    )
    .unwrap();
    fs::copy(
        golden.folder.join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let load = |config| CausalLm::load(&checkpoint, &quantizing(config), &mut |_| {}).unwrap_err();
    let message = load(config(QuantKind::Nf4, 64, true)).to_string();
    assert!(
        message.ends_with(
            "model.safetensors: tensor `model.layers.1.mlp.up_proj.weight` cannot be quantized: \
             weight[70] must be finite, got NaN"
        ),
        "{message}"
    );
    let message = load(config(QuantKind::Nf4, 96, true)).to_string();
    assert!(message.contains("block_size must be one of"), "{message}");
}

#[test]
fn merging_nothing_makes_a_quantized_model_dense() {
    let mut model = stored("nf4_double").model(&Device::flex());
    let (names, prompts) = (quantized_names(&model), model.scattered_prompts(2, 5));
    let before = model
        .prompt_logits(&prompts, &AdapterPass::default())
        .unwrap();
    let report = model
        .merge_and_unload(&[], &MergeOptions::default(), &prompts)
        .unwrap();
    assert!(quantized_names(&model).is_empty());
    let rows: Vec<String> = report.modules.iter().map(|row| row.path.clone()).collect();
    assert_eq!(rows, names);
    assert!(report.modules.iter().all(|row| row.change == 0.0));
    // bf16 rounds every weight by up to 2⁻⁹.
    assert!(report.max_error() < 1.0 / 512.0, "{report}");
    assert!(report.logits_kl.unwrap() < 1e-3, "{report}");
    let after = model
        .prompt_logits(&prompts, &AdapterPass::default())
        .unwrap();
    assert_eq!(after.dims()[..2], [1, 10]);
    let (before, after) = (values(before), values(after));

    let rounded = Tolerance::rel_abs(2e-2, 2e-2);
    assert_close(&after, &before, rounded, "dense");
    for nothing in [&[][..], &[vec![]]] {
        let error = model.prompt_logits(nothing, &AdapterPass::default());
        assert!(matches!(error, Err(Error::EmptyInput)));
    }
}
