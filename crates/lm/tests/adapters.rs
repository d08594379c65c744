//! Adapters against the numbers of PEFT.

use std::fs;

use burn::tensor::{Device, Tensor, activation};
use flametune_lm::{AdapterPass, AdapterSelection, CausalLm, Checkpoint, LoadOptions, TokenBatch};
use flametune_peft::{
    CombineOptions, LoraPlusConfig, MajoritySign, MergeOptions, PeftConfig, Slots, adapter_tensors,
    add_weighted_adapter, inject, load_adapter, lora_plus_groups, merge_and_unload, report,
    save_adapter, set_trainable,
};
use flametune_testkit::{Tolerance, assert_close, fixture_json, fixture_path, fixture_safetensors};
use serde_json::Value;

use crate::models::{base, floats, values};

/// Every golden adapter.
const ADAPTERS: &[&str] = &[
    "adalora",
    "dora",
    "dora_embed",
    "dora_rslora",
    "hira",
    "ia3",
    "ln_tuning",
    "loha",
    "lokr",
    "lokr_both_f4",
    "lora",
    "lora_bias",
    "lora_bias_all_lmhead_saved",
    "lora_embed_head",
    "lora_exclude",
    "lora_gpt2_conv1d",
    "lora_layers_to_transform",
    "lora_qv",
    "lora_rank_alpha_pattern",
    "lora_regex",
    "lora_tied_embed",
    "lora_trainable_tokens",
    "miss",
    "miss_bat",
    "miss_mini",
    "rslora",
    "trainable_tokens",
    "trainable_tokens_tied",
    "vera",
    "vera_noproj",
];

/// As for the models themselves: f32 on both sides, sums of up to 256 products of order one.
pub(crate) fn tolerance() -> Tolerance {
    Tolerance::rel_abs(1e-4, 1e-4)
}

pub(crate) fn index(adapter: &str) -> Value {
    fixture_json("peft/index.json")[adapter].clone()
}

pub(crate) fn model(base: &str, device: &Device) -> CausalLm {
    let checkpoint = Checkpoint::open(fixture_path(format!("peft/{base}"))).unwrap();
    CausalLm::load(&checkpoint, &LoadOptions::f32(device), &mut |_| {}).unwrap()
}

/// The base of an adapter, with the adapter under the name `golden`.
pub(crate) fn adapted(adapter: &str, device: &Device) -> CausalLm {
    let mut model = model(index(adapter)["base"].as_str().unwrap(), device);
    load_adapter(
        &mut model,
        "golden",
        fixture_path(format!("peft/{adapter}")),
    )
    .unwrap();
    model
}

pub(crate) fn batch() -> TokenBatch {
    let ids = &fixture_safetensors("peft/inputs.safetensors")["input_ids"];
    let ids: Vec<u32> = ids
        .iter::<i64>()
        .map(|id| u32::try_from(id).unwrap())
        .collect();
    TokenBatch::from_rows(
        &ids.chunks(ids.len() / 2)
            .map(<[u32]>::to_vec)
            .collect::<Vec<_>>(),
    )
    .unwrap()
}

pub(crate) fn logits(model: &CausalLm, pass: &AdapterPass) -> Tensor<3> {
    model.logits(model.forward(&batch(), None, pass).unwrap(), pass)
}

/// Logits of the last three positions, which the goldens hold.
pub(crate) fn last3(model: &CausalLm, pass: &AdapterPass) -> Vec<f32> {
    let logits = logits(model, pass);
    let seq = logits.dims()[1];
    values(logits.narrow(1, seq - 3, 3))
}

#[test]
fn logits_match_peft() {
    for adapter in ADAPTERS {
        let golden = fixture_safetensors(format!("peft/{adapter}/golden.safetensors"));
        let model = adapted(adapter, &Device::flex());
        let got = last3(&model, &AdapterPass::one("golden"));
        assert_close(&got, &floats(&golden["logits_last3"]), tolerance(), adapter);
        let inputs = fixture_safetensors("peft/inputs.safetensors");
        let base_name = index(adapter)["base"].as_str().unwrap().to_owned();
        let expected = floats(&inputs[&format!("logits_{base_name}")]);
        let got = last3(&model, &base());
        assert_close(
            &got,
            &expected,
            tolerance(),
            &format!("{adapter}: disabled"),
        );
    }
}

#[test]
fn merged_logits_match_peft() {
    let mut compared = 0;
    for adapter in ADAPTERS {
        let golden = fixture_safetensors(format!("peft/{adapter}/golden.safetensors"));
        let Some(expected) = golden.get("logits_merged_last3") else {
            continue;
        };
        let mut model = adapted(adapter, &Device::flex());
        let options = MergeOptions {
            max_error: Some(1e-6),
            ..MergeOptions::default()
        };
        merge_and_unload(&mut model, &["golden"], &options).unwrap();
        assert_close(
            &last3(&model, &base()),
            &floats(expected),
            tolerance(),
            adapter,
        );
        compared += 1;
    }
    // PEFT cannot merge `lora_bias` into layers without a bias, and neither can we.
    assert_eq!(compared, ADAPTERS.len() - 1);
    let mut model = adapted("lora_bias", &Device::flex());
    let error = merge_and_unload(&mut model, &["golden"], &MergeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("B has a bias"), "{error}");
}

#[test]
fn parameter_counts_match_peft() {
    for adapter in ADAPTERS {
        let mut model = adapted(adapter, &Device::flex());
        set_trainable(&mut model, &["golden"]).unwrap();
        let counted = report(&model);
        let expected = index(adapter);
        assert_eq!(
            Some(counted.trainable as u64),
            expected["trainable"].as_u64(),
            "{adapter}"
        );
        // PEFT keeps the rank of each module of AdaLoRA as a frozen parameter.
        let ranks = counted.modules.iter().filter(|row| row.method == "adalora");
        assert_eq!(
            Some((counted.total + ranks.count()) as u64),
            expected["total"].as_u64(),
            "{adapter}"
        );
    }
}

#[test]
fn saving_again_gives_the_same_bytes_and_the_same_configuration() {
    for adapter in ADAPTERS {
        let folder = tempfile::tempdir().unwrap();
        let model = adapted(adapter, &Device::flex());
        save_adapter(&model, "golden", folder.path()).unwrap();
        let read = |root: &std::path::Path, name| fs::read(root.join(name)).unwrap();
        let golden = fixture_path(format!("peft/{adapter}"));
        let weights = "adapter_model.safetensors";
        assert!(
            read(folder.path(), weights) == read(&golden, weights),
            "{adapter}: tensors"
        );
        let config =
            |root| -> Value { serde_json::from_slice(&read(root, "adapter_config.json")).unwrap() };
        assert_eq!(
            config(folder.path()),
            config(&golden),
            "{adapter}: configuration"
        );
        let text = read(folder.path(), "adapter_config.json");
        assert!(
            text == read(&golden, "adapter_config.json"),
            "{adapter}: text"
        );
    }
}

/// Keys of PEFT's parameters have the adapter's name in them, and those of the file have not.
fn file_key(parameter: &str) -> String {
    let key = parameter.replace(".modules_to_save.default", "");
    let key = key.replace(".default", "");
    key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
}

#[test]
fn gradients_match_peft() {
    for adapter in ADAPTERS {
        let device = Device::flex().autodiff();
        let mut model = adapted(adapter, &device);
        set_trainable(&mut model, &["golden"]).unwrap();
        let logits = logits(&model, &AdapterPass::one("golden"));
        let loss = activation::log_softmax(logits, 2).narrow(2, 5, 1).mean();
        let norms = crate::gradients::adapter_norms(&mut model, "golden", &loss.backward());
        let index = index(adapter);
        let expected = index["adapter_grad_norms"].as_object().unwrap();
        let stored = adapter_tensors(&model, "golden").unwrap();
        for (parameter, norm) in expected {
            let key = file_key(parameter);
            assert!(stored.contains_key(&key), "{adapter}: {key}");
            let key = key.replace("token_adapter.", "");
            let norm = norm.as_f64().unwrap();
            let Some(&got) = norms.get(&key) else {
                panic!("{adapter}: no gradient of {key}")
            };
            // Sums over 20 tokens of products of several f32 numbers.
            let close = (got - norm).abs() <= 1e-4 * norm + 1e-7;
            assert!(close, "{adapter}: {key}: expected {norm}, got {got}");
        }
        assert_eq!(norms.len(), expected.len(), "{adapter}");
    }
}

#[test]
fn adapters_of_different_rank_mix_add_and_switch_as_in_peft() {
    let golden = fixture_safetensors("peft/arithmetic/golden.safetensors");
    let mut model = model("base_llama", &Device::flex());
    for name in ["a", "b", "c"] {
        load_adapter(
            &mut model,
            name,
            fixture_path(format!("peft/arithmetic/{name}")),
        )
        .unwrap();
    }
    let named = |name: &str| Some(name.to_owned());
    let selections = [
        ("a", AdapterSelection::One("a".to_owned())),
        ("b", AdapterSelection::One("b".to_owned())),
        ("c", AdapterSelection::One("c".to_owned())),
        (
            "a_and_b_active",
            AdapterSelection::All(vec!["a".to_owned(), "b".to_owned()]),
        ),
        (
            "rows_a_b",
            AdapterSelection::PerRow(vec![named("a"), named("b")]),
        ),
        (
            "rows_base_c",
            AdapterSelection::PerRow(vec![None, named("c")]),
        ),
    ];
    for (case, selection) in selections {
        let got = last3(&model, &AdapterPass::new(selection));
        let expected = floats(&golden[&format!("logits_last3.{case}")]);
        assert_close(&got, &expected, tolerance(), case);
    }
}

fn three_adapters() -> CausalLm {
    let mut model = model("base_llama", &Device::flex());
    for name in ["a", "b", "c"] {
        load_adapter(
            &mut model,
            name,
            fixture_path(format!("peft/arithmetic/{name}")),
        )
        .unwrap();
    }
    model
}

#[test]
fn weighted_combinations_match_peft() {
    let golden = fixture_safetensors("peft/arithmetic/golden.safetensors");
    let cases = fixture_json("peft/arithmetic/cases.json");
    let mut compared = 0;
    for (case, options) in cases.as_object().unwrap() {
        if options["random"].as_bool().unwrap() {
            continue;
        }
        let text = |field: &str| options[field].as_str();
        let weights = options["weights"].as_array().unwrap();
        let names = options["adapters"].as_array().unwrap();
        let adapters: Vec<(&str, f64)> = names
            .iter()
            .zip(weights)
            .map(|(name, weight)| (name.as_str().unwrap(), weight.as_f64().unwrap()))
            .collect();
        let kind = text("combination_type").unwrap().parse().unwrap();
        let combine = CombineOptions {
            density: options["density"].as_f64(),
            svd_rank: options["svd_rank"]
                .as_u64()
                .map(|r| usize::try_from(r).unwrap()),
            majority_sign_method: match text("majority_sign_method") {
                Some("frequency") => MajoritySign::Frequency,
                _ => MajoritySign::Total,
            },
            ..CombineOptions::new(kind)
        };
        let mut model = three_adapters();
        add_weighted_adapter(&mut model, &adapters, "mix", &combine).unwrap();
        let got = last3(&model, &AdapterPass::one("mix"));
        let expected = floats(&golden[&format!("logits_last3.{case}")]);
        assert_close(&got, &expected, tolerance(), case);
        let PeftConfig::Lora(config) = model.adapters().config("mix").unwrap().as_ref() else {
            panic!("LoRA")
        };
        assert_eq!(Some(config.r as u64), options["r"].as_u64(), "{case}: rank");
        compared += 1;
    }
    assert_eq!(compared, 9);
}

#[test]
fn an_analogy_of_adapters_is_exact() {
    let mut model = three_adapters();
    let cat = CombineOptions::new("cat".parse().unwrap());
    let analogy = [("c", 1.0), ("b", 1.0), ("a", -1.0)];
    add_weighted_adapter(&mut model, &analogy, "analogy", &cat).unwrap();
    add_weighted_adapter(&mut model, &[("analogy", 1.0), ("a", 1.0)], "sum", &cat).unwrap();
    let both = AdapterSelection::All(vec!["b".to_owned(), "c".to_owned()]);
    let expected = last3(&model, &AdapterPass::new(both));
    let got = last3(&model, &AdapterPass::one("sum"));
    assert_close(&got, &expected, tolerance(), "c + b - a + a");
}

#[test]
fn lora_plus_groups_match_peft() {
    let golden = fixture_json("peft/loraplus_groups.json");
    let golden = golden.as_array().unwrap();
    let keys: Vec<String> = golden
        .iter()
        .flat_map(|group| group["params"].as_array().unwrap())
        .map(|name| file_key(name.as_str().unwrap()))
        .collect();
    let config = LoraPlusConfig {
        lr: 1e-3,
        loraplus_lr_ratio: 16.0,
        loraplus_weight_decay: 0.01,
        ..LoraPlusConfig::default()
    };
    let groups = lora_plus_groups(keys.iter().map(|key| (key.as_str(), 2)), &config);
    for (group, expected) in groups.iter().zip(golden) {
        assert_eq!(Some(group.lr), expected["lr"].as_f64());
        assert_eq!(Some(group.weight_decay), expected["weight_decay"].as_f64());
        let params = expected["params"].as_array().unwrap().iter();
        let params: Vec<String> = params
            .map(|name| file_key(name.as_str().unwrap()))
            .collect();
        assert_eq!(group.params, params);
    }
}

#[test]
fn unknown_adapters_and_other_row_counts_are_refused_before_computing() {
    let model = three_adapters();
    let error = |pass: &AdapterPass| model.forward(&batch(), None, pass).unwrap_err().to_string();
    assert_eq!(
        error(&AdapterPass::one("d")),
        "unknown adapter `d`, known: a, b, c"
    );
    let rows = AdapterPass::new(AdapterSelection::PerRow(vec![Some("a".to_owned())]));
    assert_eq!(
        error(&rows),
        "adapters were selected for 1 rows, the batch has 2"
    );
}

#[test]
fn what_decompositions_leave_of_the_base_matches_peft() {
    let golden = fixture_safetensors("peft/init.safetensors");
    let weights = fixture_safetensors("peft/base_llama/model.safetensors");
    let name = "model.layers.0.self_attn.q_proj";
    let weight = floats(&weights[&format!("{name}.weight")]);
    for init in ["pissa", "pissa_niter_16", "olora"] {
        let mut config = fixture_json("peft/lora/adapter_config.json");
        config["init_lora_weights"] = init.into();
        let config = PeftConfig::from_json(config, std::path::Path::new("test")).unwrap();
        let mut model = model("base_llama", &Device::flex());
        let expected = last3(&model, &base());
        inject(&mut model, "a", &config, 0).unwrap();
        let got = last3(&model, &AdapterPass::one("a"));
        assert_close(
            &got,
            &expected,
            tolerance(),
            &format!("{init}: logits at init"),
        );
        let tensors = adapter_tensors(&model, "a").unwrap();
        let factor =
            |side| floats(&tensors[&format!("base_model.model.{name}.lora_{side}.weight")]);
        let (a, b) = (factor("A"), factor("B"));
        let (r, d_in, scaling) = (4, 64, 2.0);
        let residual: Vec<f32> = weight
            .iter()
            .enumerate()
            .map(|(at, w)| {
                let (i, j) = (at / d_in, at % d_in);
                w - scaling * (0..r).map(|k| b[i * r + k] * a[k * d_in + j]).sum::<f32>()
            })
            .collect();
        let expected = floats(&golden[&format!("residual.{init}")]);
        if init == "pissa_niter_16" {
            // The singular values of a random matrix lie close, so the iterations end in different
            // subspaces, but each leaves as little as the best one within a few thousandths.
            let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let ratio = norm(&residual) / norm(&expected);
            assert!((ratio - 1.0).abs() < 5e-3, "{init}: {ratio}");
            continue;
        }
        assert_close(&residual, &expected, Tolerance::rel_abs(0.0, 1e-5), init);
    }
}
