//! Virtual tokens whose training goes on: the encoder that makes them comes back, to the last bit.

use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Gradients, Tensor, activation};
use flametune_lm::{AdapterPass, CausalLm};
use flametune_peft::{
    Error, PeftConfig, SlotModule, Slots, inject, load_adapter, read_config, report,
    resume_adapter, save_adapter,
};
use flametune_testkit::fixture_path;

use crate::adapters::{logits, model};

const ENCODED: &[&str] = &["p_tuning_mlp", "p_tuning_lstm", "prefix_tuning_projection"];
const ENCODER: &str = "flametune_encoder.safetensors";
const WEIGHTS: &str = "adapter_model.safetensors";

fn training_config(adapter: &str) -> PeftConfig {
    let mut config = read_config(fixture_path(format!("peft/{adapter}"))).unwrap();
    config.common_mut().inference_mode = false;
    config
}

struct Descent<'a>(&'a Gradients);

impl ModuleMapper for Descent<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = param.val().grad(self.0).unwrap();
        param.map(|old| {
            let place = (&old.device(), old.dtype());
            let step = Tensor::<D>::from_data(gradient.into_data(), place) * 0.5;
            (old - step).detach().set_require_grad(true)
        })
    }
}

/// One step of gradient descent on the adapter `name`.
fn step(model: &mut CausalLm, name: &str) {
    let logits = logits(model, &AdapterPass::one(name));
    let loss = activation::log_softmax(logits, 2).narrow(2, 5, 1).mean();
    let gradients = loss.backward();
    model.visit_slots(&mut |slot| {
        if let SlotModule::Prompt(prompt) = slot.module {
            for part in prompt.adapters.iter_mut().filter(|part| part.name == name) {
                part.method.encoder = part.method.encoder.clone().map(&mut Descent(&gradients));
            }
        }
    });
}

fn bytes(folder: &Path, file: &str) -> Vec<u8> {
    fs::read(folder.join(file)).unwrap()
}

#[test]
fn a_training_that_goes_on_ends_as_the_unbroken_one() {
    let device = Device::flex().autodiff();
    for adapter in ENCODED {
        let mut unbroken = model("base_llama", &device);
        inject(&mut unbroken, "a", &training_config(adapter), 7).unwrap();
        let begin = tempfile::tempdir().unwrap();
        save_adapter(&unbroken, "a", begin.path()).unwrap();
        step(&mut unbroken, "a");
        let half = tempfile::tempdir().unwrap();
        save_adapter(&unbroken, "a", half.path()).unwrap();
        assert!(
            bytes(begin.path(), ENCODER) != bytes(half.path(), ENCODER),
            "{adapter}"
        );
        let mut resumed = model("base_llama", &device);
        resume_adapter(&mut resumed, "b", half.path()).unwrap();
        assert_eq!(
            report(&resumed).trainable,
            report(&unbroken).trainable,
            "{adapter}"
        );
        for (model, name) in [(&mut unbroken, "a"), (&mut resumed, "b")] {
            step(model, name);
        }
        let ends = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        save_adapter(&unbroken, "a", ends[0].path()).unwrap();
        save_adapter(&resumed, "b", ends[1].path()).unwrap();
        for file in [ENCODER, WEIGHTS, "adapter_config.json"] {
            let same = bytes(ends[0].path(), file) == bytes(ends[1].path(), file);
            assert!(same, "{adapter}: {file}");
        }
    }
}

#[test]
fn without_its_encoder_the_table_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = model("base_llama", &Device::flex());
    inject(&mut first, "a", &training_config("p_tuning_mlp"), 7).unwrap();
    save_adapter(&first, "a", folder.path()).unwrap();
    let mut used = model("base_llama", &Device::flex());
    load_adapter(&mut used, "a", folder.path()).unwrap();
    let table: usize = report(&used).modules.iter().map(|row| row.params).sum();
    assert!(table < report(&first).trainable);
    // An adapter in use has no encoder, and does not leave an old one beside it.
    save_adapter(&used, "a", folder.path()).unwrap();
    assert!(!folder.path().join(ENCODER).exists());
    let mut resumed = model("base_llama", &Device::flex());
    resume_adapter(&mut resumed, "a", folder.path()).unwrap();
    assert_eq!(report(&resumed).trainable, table);
}

#[test]
fn encoders_that_are_broken_or_belong_elsewhere_are_refused() {
    let saved = |adapter: &str, seed| {
        let folder = tempfile::tempdir().unwrap();
        let mut model = model("base_llama", &Device::flex());
        inject(&mut model, "a", &training_config(adapter), seed).unwrap();
        save_adapter(&model, "a", folder.path()).unwrap();
        folder
    };
    let refused = |folder: &Path| {
        let mut model = model("base_llama", &Device::flex());
        let error = resume_adapter(&mut model, "a", folder).unwrap_err();
        assert_eq!(model.adapters().names().count(), 0);
        error
    };
    let (mlp, other, lstm) = (
        saved("p_tuning_mlp", 1),
        saved("p_tuning_mlp", 2),
        saved("p_tuning_lstm", 1),
    );
    let whole = bytes(mlp.path(), ENCODER);
    fs::write(mlp.path().join(ENCODER), bytes(other.path(), ENCODER)).unwrap();
    assert!(matches!(refused(mlp.path()), Error::ForeignEncoder { .. }));
    fs::write(mlp.path().join(ENCODER), bytes(lstm.path(), ENCODER)).unwrap();
    let error = refused(mlp.path());
    let wrong = matches!(
        error,
        Error::MissingTensor { .. } | Error::ShapeMismatch { .. } | Error::InvalidConfig { .. }
    );
    assert!(wrong, "{error}");
    fs::write(mlp.path().join(ENCODER), &whole[..whole.len() - 3]).unwrap();
    assert!(matches!(
        refused(mlp.path()),
        Error::InvalidSafetensors { .. }
    ));
    fs::write(mlp.path().join(ENCODER), &whole).unwrap();
    let config = mlp.path().join("adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut fields: serde_json::Value = serde_json::from_str(&text).unwrap();
    fields["encoder_hidden_size"] = 1_000_000_000_000_u64.into();
    fs::write(&config, fields.to_string()).unwrap();
    let error = refused(mlp.path()).to_string();
    assert!(error.contains("the largest dimension in"), "{error}");
}
