//! Configurations and files that are wrong: each is refused with a message that says where.

use std::fs;
use std::path::Path;

use burn::tensor::{DType, Device};
use flametune_peft::{
    AdapterPass, Error, LoraConfig, PeftConfig, Slots, TargetModules, inject, load_adapter,
    save_adapter,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tiny::Tiny;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const KEY: &str = "base_model.model.model.layers.0.up_proj.lora_A.weight";

fn config() -> PeftConfig {
    LoraConfig {
        r: 2,
        target_modules: Some(TargetModules::list(["up_proj"])),
        ..LoraConfig::default()
    }
    .into()
}

fn tiny() -> Tiny {
    Tiny::new(&Device::flex(), DType::F32)
}

fn saved(config: &PeftConfig) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut model = tiny();
    inject(&mut model, "a", config, 1).unwrap();
    save_adapter(&model, "a", folder.path()).unwrap();
    folder
}

/// Loads a changed folder; the model must be as before, whatever happens.
fn refused(folder: &Path) -> Error {
    let mut model = tiny();
    let before = model.values(&AdapterPass::default());
    let error = load_adapter(&mut model, "a", folder).unwrap_err();
    assert_eq!(model.adapters().names().count(), 0);
    assert_eq!(model.values(&AdapterPass::default()), before);
    error
}

fn with_config(change: impl Fn(&mut Value)) -> Error {
    let folder = saved(&config());
    let path = folder.path().join(CONFIG);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
    refused(folder.path())
}

type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

fn with_tensors(change: impl Fn(&mut Tensors)) -> Error {
    let folder = saved(&config());
    let path = folder.path().join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, view)| {
            (
                name.to_owned(),
                view.dtype(),
                view.shape().to_vec(),
                view.data().to_vec(),
            )
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (
            name.as_str(),
            TensorView::new(*dtype, shape.clone(), data).unwrap(),
        )
    });
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    refused(folder.path())
}

fn entry(tensors: &mut Tensors) -> &mut (String, Dtype, Vec<usize>, Vec<u8>) {
    tensors.iter_mut().find(|tensor| tensor.0 == KEY).unwrap()
}

#[test]
fn wrong_configurations_are_refused() {
    assert!(matches!(
        with_config(|c| c["r"] = json!(0)),
        Error::InvalidConfig { field: "r", .. }
    ));
    assert!(matches!(
        with_config(|c| c["lora_alpha"] = json!(-1)),
        Error::InvalidConfig {
            field: "lora_alpha",
            ..
        }
    ));
    assert!(matches!(
        with_config(|c| c["r"] = json!("many")),
        Error::InvalidJson { .. }
    ));
    assert!(matches!(
        with_config(|c| c["peft_type"] = json!("NOVEL")),
        Error::UnknownPeftType { .. }
    ));
    assert!(matches!(
        with_config(|c| c["use_qalora"] = json!(true)),
        Error::UnsupportedOption {
            field: "use_qalora",
            ..
        }
    ));
    assert!(matches!(
        with_config(|c| c["target_modules"] = json!(["up_porj"])),
        Error::NoMatch { .. }
    ));
    assert!(matches!(
        with_config(|c| c["target_modules"] = json!("(up")),
        Error::InvalidPattern { .. }
    ));
    assert!(matches!(
        with_config(|c| c["target_modules"] = json!(["input_layernorm"])),
        Error::UnsupportedModule { .. }
    ));
    assert!(matches!(
        with_config(|c| c["rank_pattern"] = json!({"q_proj": 4})),
        Error::NoMatch {
            field: "rank_pattern",
            ..
        }
    ));
    assert!(matches!(
        with_config(|c| c["bias"] = json!("some")),
        Error::InvalidJson { .. }
    ));
    for not_a_number in [json!("NaN"), json!(null)] {
        assert!(matches!(
            with_config(|c| c["lora_alpha"] = not_a_number.clone()),
            Error::InvalidJson { .. }
        ));
    }
    // No room is made for a rank that the file cannot have.
    for field in ["r", "rank_pattern"] {
        let huge = 1_000_000_000_000_u64;
        let error = with_config(|c| {
            c[field] = match field {
                "r" => json!(huge),
                _ => json!({ "up_proj": huge }),
            }
        });
        assert!(
            error.to_string().contains("the largest dimension in"),
            "{error}"
        );
    }
    for (init, field, options) in [
        ("loftq", "loftq_config", json!({"loftq_bits": 3})),
        ("loftq", "loftq_config", json!({"loftq_iter": 0})),
        ("eva", "eva_config", json!({"rho": 0.0})),
        ("eva", "eva_config", json!({"tau": 2.0})),
    ] {
        let error = with_config(|c| {
            c["init_lora_weights"] = json!(init);
            c[field] = options.clone();
        });
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
}

#[test]
fn wrong_tensors_are_refused() {
    let error = with_tensors(|t| {
        let tensor = entry(t);
        tensor.2 = vec![4, 4];
    });
    assert!(
        error.to_string().ends_with(&format!(
            "tensor `{KEY}` must have shape [2, 8], got [4, 4]"
        )),
        "{error}"
    );
    let error = with_tensors(|t| t.retain(|tensor| tensor.0 != KEY));
    assert!(
        matches!(&error, Error::MissingTensor { name, .. } if name == KEY),
        "{error}"
    );
    let error = with_tensors(|t| {
        t.push((
            "x.lora_A.weight".to_owned(),
            Dtype::F32,
            vec![1],
            vec![0; 4],
        ))
    });
    assert!(matches!(error, Error::UnexpectedTensors { .. }), "{error}");
    let error = with_tensors(|t| entry(t).3[8..12].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(
        matches!(error, Error::NotFinite { index: 2, .. }),
        "{error}"
    );
    let error = with_tensors(|t| {
        let tensor = entry(t);
        tensor.1 = Dtype::I32;
    });
    assert!(matches!(error, Error::UnsupportedDtype { .. }), "{error}");
}

#[test]
fn broken_and_missing_files_are_refused() {
    let folder = saved(&config());
    let path = folder.path().join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    for len in [0, 7, 8, 100, bytes.len() - 1] {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = refused(folder.path());
        assert!(
            matches!(error, Error::InvalidSafetensors { .. }),
            "{len}: {error}"
        );
    }
    let mut huge = bytes.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, huge).unwrap();
    assert!(matches!(
        refused(folder.path()),
        Error::InvalidSafetensors { .. }
    ));
    fs::remove_file(&path).unwrap();
    assert!(matches!(refused(folder.path()), Error::Io { .. }));
    fs::write(folder.path().join(CONFIG), "{").unwrap();
    assert!(matches!(refused(folder.path()), Error::InvalidJson { .. }));
}

#[test]
fn the_base_weights_in_a_file_must_be_those_of_the_model() {
    let embedding: PeftConfig = LoraConfig {
        r: 2,
        target_modules: Some(TargetModules::list(["embed_tokens"])),
        ..LoraConfig::default()
    }
    .into();
    let folder = saved(&embedding);
    let mut model = tiny();
    load_adapter(&mut model, "a", folder.path()).unwrap();
    let mut other = tiny();
    other.embed_tokens.weight = other.embed_tokens.weight.map(|weight| weight * 2.0);
    let error = load_adapter(&mut other, "a", folder.path()).unwrap_err();
    assert!(matches!(error, Error::OtherBase { .. }), "{error}");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let mut model = tiny();
    for name in ["../escape", "", "a/b"] {
        let error = inject(&mut model, name, &config(), 1).unwrap_err();
        assert!(
            matches!(error, Error::InvalidName { .. }),
            "{name:?}: {error}"
        );
    }
}

#[test]
fn a_failed_save_leaves_the_old_files() {
    let folder = saved(&config());
    let before = fs::read(folder.path().join(WEIGHTS)).unwrap();
    let mut model = tiny();
    inject(&mut model, "a", &config(), 9).unwrap();
    // A folder where the temporary file should be written.
    fs::create_dir(folder.path().join(format!(".{CONFIG}.partial"))).unwrap();
    let error = save_adapter(&model, "a", folder.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(fs::read(folder.path().join(WEIGHTS)).unwrap(), before);
    assert!(!folder.path().join(format!(".{WEIGHTS}.partial")).exists());
}

#[test]
fn values_out_of_range_are_refused_by_every_method() {
    let wrong: [(&str, &str, Value); 33] = [
        ("LORA", "r", json!(0)),
        ("LORA", "lora_alpha", json!(-0.5)),
        ("LORA", "lora_dropout", json!(1.0)),
        ("LORA", "rank_pattern", json!({"x": 0})),
        ("LORA", "alpha_pattern", json!({"x": -1})),
        ("ADALORA", "init_r", json!(0)),
        ("ADALORA", "target_r", json!(0)),
        ("ADALORA", "total_step", json!(0)),
        ("ADALORA", "beta1", json!(1.5)),
        ("ADALORA", "lora_alpha", json!(-1)),
        ("ADALORA", "orth_reg_weight", json!(-1)),
        ("VERA", "r", json!(0)),
        ("VERA", "vera_dropout", json!(-0.1)),
        ("LOHA", "r", json!(0)),
        ("LOHA", "alpha", json!(-1)),
        ("LOHA", "rank_dropout", json!(1)),
        ("LOHA", "module_dropout", json!(2)),
        ("LOHA", "rank_pattern", json!({"x": 0})),
        ("LOKR", "r", json!(0)),
        ("LOKR", "alpha", json!(-1)),
        ("LOKR", "decompose_factor", json!(0)),
        ("LOKR", "alpha_pattern", json!({"x": -1})),
        ("MISS", "r", json!(0)),
        ("MISS", "mini_r", json!(0)),
        ("MISS", "miss_dropout", json!(1)),
        ("HIRA", "r", json!(0)),
        ("HIRA", "hira_dropout", json!(1)),
        ("PROMPT_TUNING", "num_virtual_tokens", json!(0)),
        ("PREFIX_TUNING", "encoder_hidden_size", json!(0)),
        ("P_TUNING", "encoder_num_layers", json!(0)),
        ("P_TUNING", "encoder_dropout", json!(1)),
        ("BOTTLENECK", "reduction_factor", json!(0.5)),
        ("BOTTLENECK", "scaling", json!(0)),
    ];
    for (peft_type, field, value) in wrong {
        let mut fields = json!({"peft_type": peft_type});
        match peft_type {
            "PROMPT_TUNING" | "PREFIX_TUNING" | "P_TUNING" => {
                fields["num_virtual_tokens"] = json!(3);
            }
            "BOTTLENECK" => {}
            _ => fields["target_modules"] = json!(["up_proj"]),
        }
        if peft_type == "ADALORA" {
            fields["total_step"] = json!(100);
        }
        let read = |fields: &Value| PeftConfig::from_json(fields.clone(), Path::new("test"));
        read(&fields).unwrap().validate().unwrap();
        fields[field] = value;
        let error = read(&fields).unwrap().validate().unwrap_err();
        let named = matches!(error, Error::InvalidConfig { field: named, .. } if named == field);
        assert!(named, "{peft_type}, {field}: {error}");
    }
}
