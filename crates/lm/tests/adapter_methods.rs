//! Adapters of every other method against the numbers of PEFT.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData, activation};
use flametune_lm::{AdapterPass, CausalLm};
use flametune_peft::{
    AdaLoraAllocator, BudgetSchedule, CombineOptions, LinearMethod, PeftConfig, SlotModule, Slots,
    adapter_tensors, add_weighted_adapter, inject, load_adapter, orthogonal_penalty, save_adapter,
};
use flametune_testkit::{Tolerance, assert_close, fixture_json, fixture_path, fixture_safetensors};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::adapters::{last3, logits, model, tolerance};
use crate::models::{base, floats, values};

#[test]
fn weighted_gains_match_peft() {
    let golden = fixture_safetensors("peft/arithmetic_ia3/golden.safetensors");
    let mut model = model("base_llama", &Device::flex());
    for name in ["a", "b"] {
        let folder = fixture_path(format!("peft/arithmetic_ia3/{name}"));
        load_adapter(&mut model, name, folder).unwrap();
    }
    let linear = CombineOptions::new("linear".parse().unwrap());
    add_weighted_adapter(&mut model, &[("a", 0.6), ("b", 0.5)], "ab", &linear).unwrap();
    let got = last3(&model, &AdapterPass::one("ab"));
    assert_close(&got, &floats(&golden["logits_last3"]), tolerance(), "ab");
    let folder = fixture_path("peft/arithmetic_ia3/ab");
    load_adapter(&mut model, "peft", folder).unwrap();
    let (ours, theirs) = (
        adapter_tensors(&model, "ab").unwrap(),
        adapter_tensors(&model, "peft").unwrap(),
    );
    assert!(ours.keys().eq(theirs.keys()));
    for (key, tensor) in &theirs {
        // One sum of two products in f32.
        let tolerance = Tolerance::rel_abs(1e-6, 0.0);
        assert_close(&floats(&ours[key]), &floats(tensor), tolerance, key);
    }
    // What `b` adds, and what it takes away again.
    let cat = CombineOptions::new("cat".parse().unwrap());
    let plan = [("a", 1.0), ("b", 1.0), ("b", -1.0)];
    add_weighted_adapter(&mut model, &plan, "again", &cat).unwrap();
    let expected = last3(&model, &AdapterPass::one("a"));
    let got = last3(&model, &AdapterPass::one("again"));
    assert_close(&got, &expected, tolerance(), "a + b - b");
    let svd = CombineOptions::new("svd".parse().unwrap());
    let error = add_weighted_adapter(&mut model, &[("a", 1.0)], "c", &svd).unwrap_err();
    assert_eq!(
        error.to_string(),
        "svd: is not defined for gains, use linear or cat"
    );
}

/// The configuration of the golden run.
fn adalora() -> PeftConfig {
    let schedule = fixture_json("peft/adalora_schedule.json");
    let mut config = fixture_json("peft/adalora/adapter_config.json");
    for field in [
        "init_r",
        "target_r",
        "total_step",
        "tinit",
        "tfinal",
        "deltaT",
    ] {
        config[field] = schedule["cfg"][field].clone();
    }
    config["target_modules"] = serde_json::json!(["q_proj", "v_proj"]);
    config["inference_mode"] = false.into();
    PeftConfig::from_json(config, std::path::Path::new("test")).unwrap()
}

#[test]
fn the_budget_of_adalora_matches_peft() {
    let golden = fixture_json("peft/adalora_schedule.json");
    let PeftConfig::AdaLora(config) = adalora() else {
        panic!("AdaLoRA")
    };
    let schedule = BudgetSchedule::new(&config, 4);
    for (step, row) in golden["budget_schedule"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        assert_eq!(
            row[0].as_u64(),
            Some(schedule.budget(step) as u64),
            "{step}"
        );
        assert_eq!(row[1].as_bool(), Some(schedule.allocates(step)), "{step}");
    }
}

/// Visits the three matrices of each module, under PEFT's names.
fn each_matrix(model: &mut CausalLm, mut visit: impl FnMut(&str, &mut Param<Tensor<2>>)) {
    model.visit_slots(&mut |slot| {
        let SlotModule::Linear(linear) = slot.module else {
            return;
        };
        for part in linear.adapters.iter_mut() {
            if let LinearMethod::AdaLora(part) = &mut part.method {
                let matrices = [&mut part.lora_a, &mut part.lora_e, &mut part.lora_b];
                for (name, param) in ["lora_A", "lora_E", "lora_B"].into_iter().zip(matrices) {
                    visit(&format!("{}.{name}", slot.path), param);
                }
            }
        }
    });
}

/// `AdamW` as torch computes it, for a handful of matrices.
#[derive(Default)]
struct AdamW {
    step: i32,
    moments: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    const LR: f32 = 0.005;
    const DECAY: f32 = 0.01;

    fn update(&mut self, key: &str, weights: &[f32], gradients: &[f32]) -> Vec<f32> {
        let zeros = || (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        let (first, second) = self.moments.entry(key.to_owned()).or_insert_with(zeros);
        let (c1, c2) = (
            1.0 - 0.9_f32.powi(self.step),
            1.0 - 0.999_f32.powi(self.step),
        );
        let step = |((w, g), (m, v)): ((&f32, &f32), (&mut f32, &mut f32))| {
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            w * (1.0 - Self::LR * Self::DECAY) - Self::LR / c1 * *m / ((*v / c2).sqrt() + 1e-8)
        };
        let moments = first.iter_mut().zip(second.iter_mut());
        weights
            .iter()
            .zip(gradients)
            .zip(moments)
            .map(step)
            .collect()
    }
}

#[test]
fn training_with_allocations_has_the_losses_and_ranks_of_peft() {
    let golden = fixture_json("peft/adalora_training.json");
    let tensors = fixture_safetensors("peft/adalora_training.safetensors");
    let device = Device::flex().autodiff();
    let mut model = model("base_llama", &device);
    inject(&mut model, "a", &adalora(), 0).unwrap();
    let put = |param: &mut Param<Tensor<2>>, values: Vec<f32>| {
        let data = TensorData::new(values, param.dims());
        *param = param.clone().map(|old| {
            let place = (&old.device(), old.dtype());
            Tensor::from_data(data, place).set_require_grad(true)
        });
    };
    each_matrix(&mut model, |name, param| {
        let initial = &tensors[&format!("init.base_model.model.{name}.default")];
        put(param, floats(initial));
    });
    let mut allocator = AdaLoraAllocator::new(&mut model, "a").unwrap();
    let weight = golden["orth_reg_weight"].as_f64().unwrap();
    let mut optimizer = AdamW::default();
    let labels: Vec<i64> = fixture_safetensors("peft/inputs.safetensors")["input_ids"]
        .iter::<i64>()
        .collect();
    let seq = labels.len() / 2;
    for (step, row) in golden["steps"].as_array().unwrap().iter().enumerate() {
        let logits = logits(&model, &AdapterPass::one("a"));
        let predicted = activation::log_softmax(logits, 2).narrow(1, 0, seq - 1);
        let shifted: Vec<i64> = labels
            .chunks(seq)
            .flat_map(|row| row[1..].iter().copied())
            .collect();
        let targets = TensorData::new(shifted, [2, seq - 1, 1]);
        let targets = Tensor::<3, burn::tensor::Int>::from_data(targets, &device);
        let loss = predicted.gather(2, targets).mean().neg();
        let loss = loss + orthogonal_penalty(&mut model, "a").unwrap() * weight;
        let now = f64::from(values(loss.clone())[0]);
        // Ten steps of Adam on f32 sums of twenty tokens; a rank that another one replaced would show in
        // the third digit.
        let expected = row["loss"].as_f64().unwrap();
        let close = (now - expected).abs() < 1e-4 * expected;
        assert!(close, "step {step}: {now} for {expected}");
        let gradients = loss.backward();
        let mut noted: BTreeMap<ParamId, Tensor<2>> = BTreeMap::new();
        allocator.note_gradients(&mut model, |param| {
            let gradient = param.val().grad(&gradients)?;
            noted.insert(param.id, gradient.clone());
            Some(gradient)
        });
        optimizer.step += 1;
        each_matrix(&mut model, |name, param| {
            let gradient = values(noted[&param.id].clone());
            let new = optimizer.update(name, &values(param.val()), &gradient);
            put(param, new);
        });
        allocator.update_and_allocate(&mut model, step);
        let mut alive = 0;
        each_matrix(&mut model, |name, param| {
            if name.ends_with("lora_E") {
                alive += values(param.val()).iter().filter(|&&x| x != 0.0).count();
            }
        });
        assert_eq!(
            Some(alive as u64),
            row["nonzero_singular"].as_u64(),
            "{step}"
        );
    }
    each_matrix(&mut model, |name, param| {
        let trained = floats(&tensors[&format!("final.base_model.model.{name}.default")]);
        // Adam divides by the root of a second moment, which blows up what is rounded in small gradients.
        let tolerance = Tolerance::rel_abs(0.0, 2e-3);
        assert_close(&values(param.val()), &trained, tolerance, name);
    });
    saved_ranks_come_back(&mut model);
}

/// The file holds the ranks that were kept, which compute the same.
fn saved_ranks_come_back(trained: &mut CausalLm) {
    let mut allocated = trained.clone();
    let folder = tempfile::tempdir().unwrap();
    let PeftConfig::AdaLora(config) = trained.adapters().config("a").unwrap().as_ref().clone()
    else {
        panic!("AdaLoRA")
    };
    let pattern = config.rank_pattern.unwrap();
    // Step 11 allocates nothing, so the values that step 10 set to zero have grown again.
    each_matrix(&mut allocated, |name, param| {
        if let Some(kept) = pattern.get(name) {
            let kept: Vec<f32> = kept.iter().map(|&kept| f32::from(u8::from(kept))).collect();
            let kept = TensorData::new(kept, param.dims());
            *param = param.clone().map(|old| {
                let kept = Tensor::from_data(kept, (&old.device(), old.dtype()));
                (old.detach() * kept).detach()
            });
        }
    });
    let expected = last3(&allocated, &AdapterPass::one("a"));
    save_adapter(trained, "a", folder.path()).unwrap();
    let mut loaded = model("base_llama", &Device::flex());
    load_adapter(&mut loaded, "b", folder.path()).unwrap();
    let stored = adapter_tensors(&loaded, "b").unwrap();
    for (key, kept) in &pattern {
        let rank = kept.iter().filter(|&&kept| kept).count();
        let tensor = &stored[&format!("base_model.model.{key}")];
        assert_eq!(tensor.shape()[0], rank, "{key}");
    }
    let got = last3(&loaded, &AdapterPass::one("b"));
    assert_close(&got, &expected, tolerance(), "ranks that were kept");
}

#[test]
fn rows_of_an_embedding_reach_the_head_that_shares_it() {
    let mut model = model("base_llama_tied", &Device::flex());
    let folder = fixture_path("peft/trainable_tokens_tied");
    load_adapter(&mut model, "t", &folder).unwrap();
    let plain = logits(&model, &base());
    let adapted = logits(&model, &AdapterPass::one("t"));
    let tokens = fixture_json("peft/trainable_tokens_tied/adapter_config.json")["token_indices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| usize::try_from(token.as_u64().unwrap()).unwrap())
        .collect::<Vec<_>>();
    // Before the first trained token in the text nothing but the trained tokens' logits changes.
    let ids: Vec<i64> = fixture_safetensors("peft/inputs.safetensors")["input_ids"]
        .iter::<i64>()
        .collect();
    let first = usize::try_from(ids[0]).unwrap();
    assert!(
        !tokens.contains(&first),
        "the golden's text begins with another token"
    );
    let change = values((adapted - plain).narrow(0, 0, 1).narrow(1, 0, 1));
    for (token, change) in change.iter().enumerate() {
        assert_eq!(
            change.abs() > 1e-5,
            tokens.contains(&token),
            "{token}: {change}"
        );
    }
}

#[test]
fn rows_that_differ_under_modules_that_share_them_are_refused() {
    let source = fixture_path("peft/trainable_tokens_tied");
    let folder = tempfile::tempdir().unwrap();
    let name = "adapter_config.json";
    std::fs::copy(source.join(name), folder.path().join(name)).unwrap();
    let mut bytes = std::fs::read(source.join("adapter_model.safetensors")).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&7.5_f32.to_le_bytes());
    std::fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
    let mut model = model("base_llama_tied", &Device::flex());
    let error = load_adapter(&mut model, "t", folder.path()).unwrap_err();
    assert!(
        error.to_string().contains("differs from the embedding's"),
        "{error}"
    );
}

#[test]
fn projections_in_a_file_that_says_it_has_none_are_refused() {
    let config = fixture_json("peft/vera/adapter_config.json");
    let folder = tempfile::tempdir().unwrap();
    let mut value: Value = config;
    value["save_projection"] = false.into();
    std::fs::write(folder.path().join("adapter_config.json"), value.to_string()).unwrap();
    let weights = "adapter_model.safetensors";
    let source = fixture_path(format!("peft/vera/{weights}"));
    std::fs::copy(source, folder.path().join(weights)).unwrap();
    let mut model = model("base_llama", &Device::flex());
    let error = load_adapter(&mut model, "v", folder.path()).unwrap_err();
    assert!(error.to_string().contains("base_model.vera_A"), "{error}");
}

#[test]
fn projections_are_drawn_as_torch_draws_them() {
    let config = fixture_json("peft/vera/adapter_config.json");
    let config = PeftConfig::from_json(config, std::path::Path::new("test")).unwrap();
    let mut model = model("base_llama", &Device::flex());
    inject(&mut model, "v", &config, 0).unwrap();
    let ours = adapter_tensors(&model, "v").unwrap();
    let golden = fixture_safetensors("peft/vera/adapter_model.safetensors");
    for key in ["base_model.vera_A", "base_model.vera_B"] {
        assert_eq!(floats(&ours[key]), floats(&golden[key]), "{key}");
    }
}
