//! LoRA that begins at data or at what quantization loses, against PEFT.

use burn::tensor::{Device, Tensor, TensorData};
use flametune_lm::{
    AdapterPass, CausalLm, Checkpoint, EvaBatch, LoadOptions, QuantizeOptions, TokenBatch,
};
use flametune_peft::{
    BaseRef, EvaConfig, InitLoraWeights, LoftqConfig, LoraConfig, PeftConfig, SlotModule, Slots,
    TargetModules, adapter_tensors, inject, load_adapter,
};
use flametune_quant::{QuantConfig, QuantKind, WeightDtype};
use flametune_testkit::{Tolerance, assert_close, fixture_json, fixture_path, fixture_safetensors};

use crate::adapters::{last3, model, tolerance};
use crate::models::{base, floats, values};

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj";

fn lora(adapter: &str) -> LoraConfig {
    let config = fixture_json(format!("peft/{adapter}/adapter_config.json"));
    match PeftConfig::from_json(config, std::path::Path::new("test")).unwrap() {
        PeftConfig::Lora(config) => config,
        other => panic!("{}", other.peft_type()),
    }
}

/// The weight of a layer as numbers.
fn weight(model: &CausalLm, path: &str) -> Tensor<2> {
    let mut found = None;
    model.clone().visit_slots(&mut |slot| {
        if let SlotModule::Linear(linear) = slot.module
            && slot.path == path
        {
            found = Some(linear.base.get().dense_weight());
        }
    });
    found.unwrap()
}

/// `B·A` of a layer.
fn product(tensors: &std::collections::BTreeMap<String, TensorData>, path: &str) -> Tensor<2> {
    let device = Device::flex();
    let factor = |side: &str| {
        let data = tensors[&format!("base_model.model.{path}.lora_{side}.weight")].clone();
        Tensor::<2>::from_data(data, &device)
    };
    factor("B").matmul(factor("A"))
}

fn stored(adapter: &str) -> std::collections::BTreeMap<String, TensorData> {
    fixture_safetensors(format!("peft/{adapter}/adapter_model.safetensors"))
        .into_iter()
        .collect()
}

fn norm(matrix: Tensor<2>) -> f64 {
    let numbers = values(matrix);
    numbers
        .iter()
        .map(|&x| f64::from(x).powi(2))
        .sum::<f64>()
        .sqrt()
}

#[test]
fn adapters_that_loftq_began_quantize_the_base_as_peft_does() {
    for adapter in ["init_loftq_4bit_iter1_alpha_eq_r", "init_loftq_4bit_iter5"] {
        let golden = fixture_safetensors(format!("peft/{adapter}/golden.safetensors"));
        let mut model = model("base_llama", &Device::flex());
        load_adapter(&mut model, "a", fixture_path(format!("peft/{adapter}"))).unwrap();
        let residual = floats(&golden[&format!("residual.{Q_PROJ}.weight")]);
        // The same codes and scales.
        let tolerance_of_codes = Tolerance::rel_abs(1e-6, 1e-7);
        assert_close(
            &values(weight(&model, Q_PROJ)),
            &residual,
            tolerance_of_codes,
            adapter,
        );
        let got = last3(&model, &AdapterPass::one("a"));
        assert_close(&got, &floats(&golden["logits_last3"]), tolerance(), adapter);
    }
}

#[test]
fn loftq_begins_at_the_products_of_peft_with_the_scaling_taken_out() {
    for (adapter, scaling) in [
        ("init_loftq_4bit_iter1_alpha_eq_r", 1.0),
        ("init_loftq_4bit_iter5", 2.0),
    ] {
        let mut config = lora(adapter);
        config.common.inference_mode = false;
        let mut model = model("base_llama", &Device::flex());
        let dense = weight(&model, Q_PROJ);
        let expected_logits = last3(&model, &base());
        inject(&mut model, "a", &config.into(), 3).unwrap();
        let own = product(&adapter_tensors(&model, "a").unwrap(), Q_PROJ) * scaling;
        let peft = product(&stored(adapter), Q_PROJ);
        // f64 here, f32 there, over singular values of order 0.1.
        let close = Tolerance::rel_abs(1e-3, 2e-5);
        assert_close(&values(own.clone()), &values(peft), close, adapter);
        let quantized = weight(&model, Q_PROJ);
        let without = norm(dense.clone() - quantized.clone());
        let with = norm(dense - quantized - own);
        assert!(with < 0.95 * without, "{adapter}: {with} after {without}");
        let distance = |logits: &[f32]| {
            let pairs = logits.iter().zip(&expected_logits);
            pairs
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        let with = distance(&last3(&model, &AdapterPass::one("a")));
        let without = distance(&last3(&model, &base()));
        assert!(with < without, "{adapter}: logits {with} after {without}");
    }
}

#[test]
fn loftq_is_refused_where_the_base_must_stay_and_leaves_it_alone() {
    let config: PeftConfig = LoraConfig {
        init_lora_weights: InitLoraWeights::Loftq,
        loftq_config: Some(LoftqConfig::default()),
        target_modules: Some(TargetModules::list(["q_proj"])),
        ..LoraConfig::default()
    }
    .into();
    let mut model = model("base_llama", &Device::flex());
    load_adapter(&mut model, "first", fixture_path("peft/lora_qv")).unwrap();
    let before = last3(&model, &base());
    let error = inject(&mut model, "a", &config, 0).unwrap_err().to_string();
    assert!(
        error.contains("other adapters on the same layers"),
        "{error}"
    );
    assert_eq!(last3(&model, &base()), before);
    assert_eq!(model.adapters().names().collect::<Vec<_>>(), ["first"]);
    flametune_peft::remove(&mut model, "first").unwrap();
    inject(&mut model, "a", &config, 0).unwrap();
    flametune_peft::remove(&mut model, "a").unwrap();
    let error = inject(&mut model, "b", &config, 0).unwrap_err().to_string();
    assert!(error.contains("quantized already"), "{error}");
    assert_eq!(model.adapters().names().count(), 0);
    let mut kinds = Vec::new();
    model.visit_slots(&mut |slot| {
        if let SlotModule::Linear(linear) = slot.module
            && let BaseRef::Own(flametune_quant::BaseLinear::Quant(layer)) = linear.base
        {
            kinds.push((slot.path.to_owned(), layer.kind().to_string()));
        }
    });
    let expected = (0..2).map(|layer| {
        (
            format!("model.layers.{layer}.self_attn.q_proj"),
            "nf4".to_owned(),
        )
    });
    assert_eq!(kinds, expected.collect::<Vec<_>>());
}

/// The batches that PEFT read, of which every token counts.
fn batches() -> Vec<EvaBatch> {
    let golden = fixture_safetensors("peft/init_eva_batches.safetensors");
    (0..golden.len())
        .map(|at| {
            let ids = &golden[&format!("batch{at}")];
            let width = ids.shape()[1];
            let numbers: Vec<u32> = ids
                .iter::<i64>()
                .map(|id| u32::try_from(id).unwrap())
                .collect();
            let rows: Vec<Vec<u32>> = numbers.chunks(width).map(<[u32]>::to_vec).collect();
            EvaBatch {
                batch: TokenBatch::from_rows(&rows).unwrap(),
                counts: vec![true; numbers.len()],
            }
        })
        .collect()
}

#[test]
fn eva_finds_the_ranks_and_directions_of_peft() {
    let golden = lora("init_eva");
    let config = LoraConfig {
        r: golden.r,
        lora_alpha: golden.lora_alpha,
        target_modules: Some(TargetModules::AllLinear),
        init_lora_weights: InitLoraWeights::Eva,
        eva_config: golden.eva_config.clone(),
        ..LoraConfig::default()
    };
    let mut model = model("base_llama", &Device::flex());
    let before = last3(&model, &base());
    assert!(model.inject_eva("a", &config, 0, &batches(), 100).unwrap());
    let PeftConfig::Lora(found) = model.adapters().config("a").unwrap().as_ref().clone() else {
        panic!("LoRA")
    };
    assert_eq!(found.rank_pattern, golden.rank_pattern);
    assert_eq!(found.alpha_pattern, golden.alpha_pattern);
    assert_eq!(found.target_modules, golden.target_modules);
    assert_eq!(found.eva_config, golden.eva_config);
    let got = last3(&model, &AdapterPass::one("a"));
    assert_close(&got, &before, Tolerance::rel_abs(1e-6, 1e-6), "B is zero");
    let own = adapter_tensors(&model, "a").unwrap();
    for (key, peft) in stored("init_eva") {
        let ours = &own[&key];
        assert_eq!(ours.shape(), peft.shape(), "{key}");
        if key.ends_with("lora_B.weight") {
            assert!(floats(ours).iter().all(|&x| x == 0.0));
            continue;
        }
        let width = peft.shape()[1];
        let (ours, peft) = (floats(ours), floats(&peft));
        for (row, (a, b)) in ours.chunks(width).zip(peft.chunks(width)).enumerate() {
            let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            // Both decompose in random subspaces, and some singular values lie close together.
            assert!(cosine > 0.98, "{key}, row {row}: {cosine}");
        }
    }
}

#[test]
fn eva_leaves_out_tokens_that_do_not_count_and_says_when_none_are_left() {
    let config = LoraConfig {
        r: 2,
        target_modules: Some(TargetModules::list(["q_proj", "down_proj"])),
        eva_config: Some(EvaConfig {
            rho: 1.0,
            ..EvaConfig::default()
        }),
        ..LoraConfig::default()
    };
    let begun = |batches: &[EvaBatch]| {
        let mut model = model("base_llama", &Device::flex());
        let settled = model.inject_eva("a", &config, 0, batches, 2);
        (settled.map_err(|error| error.to_string()), model)
    };
    // Tokens at the end of a row change nothing before them, so leaving them out equals not having them.
    let rows: Vec<Vec<u32>> = (0..4).map(|row| (row..row + 6).collect()).collect();
    let longer: Vec<Vec<u32>> = rows
        .iter()
        .map(|row| row.iter().copied().chain([200, 201]).collect())
        .collect();
    let whole = EvaBatch {
        batch: TokenBatch::from_rows(&rows).unwrap(),
        counts: vec![true; 24],
    };
    let masked = EvaBatch {
        batch: TokenBatch::from_rows(&longer).unwrap(),
        counts: (0..32).map(|at| at % 8 < 6).collect(),
    };
    let (_, a) = begun(std::slice::from_ref(&whole));
    let (_, b) = begun(&[masked]);
    let (a, b) = (
        adapter_tensors(&a, "a").unwrap(),
        adapter_tensors(&b, "a").unwrap(),
    );
    for (key, tensor) in &a {
        let tolerance = Tolerance::rel_abs(0.0, 2e-3);
        assert_close(&floats(tensor), &floats(&b[key]), tolerance, key);
    }
    // With rho 1 every layer keeps its rank, and its scaling.
    assert!(
        a.iter()
            .all(|(key, data)| !key.contains("lora_A") || data.shape()[0] == 2)
    );
    let none = EvaBatch {
        counts: vec![false; 24],
        ..whole.clone()
    };
    let (error, model) = begun(&[none]);
    assert!(
        error
            .unwrap_err()
            .contains("needs a batch of at least 2 tokens")
    );
    assert_eq!(model.adapters().names().count(), 0);
    let short = EvaBatch {
        counts: vec![true; 7],
        ..whole
    };
    let (error, model) = begun(&[short]);
    assert!(
        error
            .unwrap_err()
            .contains("saw 24 rows of the batch, and 7 were marked")
    );
    assert_eq!(model.adapters().names().count(), 0);
}

#[test]
fn an_adapter_begun_at_the_dense_base_takes_error_out_of_the_quantized_one() {
    let device = Device::flex();
    let nf4 = QuantConfig {
        kind: QuantKind::Nf4,
        block_size: 64,
        double_quant: true,
        dtype: WeightDtype::F32,
    };
    let checkpoint = Checkpoint::open(fixture_path("peft/base_llama")).unwrap();
    let options = LoadOptions::f32(&device).with_quantize(QuantizeOptions::new(nf4));
    let mut quantized = CausalLm::load(&checkpoint, &options, &mut |_| {}).unwrap();
    let mut dense = model("base_llama", &device);
    let config = LoraConfig {
        r: 8,
        lora_alpha: 32.0,
        target_modules: Some(TargetModules::AllLinear),
        ..LoraConfig::default()
    };
    let config = PeftConfig::from(config);
    inject(&mut quantized, "a", &config, 0).unwrap();
    let report = quantized
        .begin_at_dense("a", &mut dense, &batches())
        .unwrap();
    assert!(report.after < 0.9 * report.before, "{report:?}");
    assert!(report.before < 0.2, "NF4 loses about a tenth: {report:?}");
    // The dense model is as it was, and the outputs come nearer to it.
    assert!(dense.adapters().names().next().is_none());
    let wanted = last3(&dense, &base());
    let distance =
        |got: Vec<f32>| -> f32 { got.iter().zip(&wanted).map(|(a, b)| (a - b).powi(2)).sum() };
    let plain = distance(last3(&quantized, &base()));
    let begun = distance(last3(&quantized, &AdapterPass::one("a")));
    assert!(begun < 0.8 * plain, "{begun} {plain}");
    // A dense base leaves nothing to begin at.
    let mut other = dense.clone();
    inject(&mut other, "a", &config, 0).unwrap();
    let error = other
        .begin_at_dense("a", &mut dense, &batches())
        .unwrap_err()
        .to_string();
    assert!(error.contains("no quantized layer"), "{error}");
}
