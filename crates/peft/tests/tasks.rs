//! Adapters as vectors: sums, negations and analogies.

use burn::tensor::{DType, Device};
use flametune_peft::{
    AdapterPass, AdapterSelection, Error, Ia3Config, LoraConfig, PeftConfig, Slots, TargetModules,
    add_adapters, analogous_adapter, inject, negate_adapter,
};
use flametune_testkit::{Tolerance, assert_close, max_difference};

use crate::tiny::Tiny;

/// A head alone, so that the logits are linear in what adapters change.
fn model(configs: [PeftConfig; 3]) -> Tiny {
    let mut model = Tiny::new(&Device::flex(), DType::F32);
    for (index, (name, config)) in ["a", "b", "c"].into_iter().zip(configs).enumerate() {
        inject(&mut model, name, &config, 1).unwrap();
        model.disturb(name, 0.3, 100 * (index + 1));
    }
    model
}

fn lora(r: usize, alpha: f64) -> PeftConfig {
    LoraConfig {
        r,
        lora_alpha: alpha,
        target_modules: Some(TargetModules::list(["lm_head"])),
        ..LoraConfig::default()
    }
    .into()
}

fn ia3() -> PeftConfig {
    Ia3Config {
        target_modules: Some(TargetModules::list(["lm_head"])),
        feedforward_modules: Some(TargetModules::list(Vec::<String>::new())),
        ..Ia3Config::default()
    }
    .into()
}

/// How an adapter changes the logits.
fn change(model: &Tiny, name: &str) -> Vec<f32> {
    let with = model.values(&AdapterPass::one(name));
    let without = model.values(&AdapterPass::default());
    with.iter().zip(without).map(|(a, b)| a - b).collect()
}

fn combined(model: &Tiny, terms: &[(&str, f32)]) -> Vec<f32> {
    let changes: Vec<(Vec<f32>, f32)> = terms
        .iter()
        .map(|&(name, weight)| (change(model, name), weight))
        .collect();
    (0..changes[0].0.len())
        .map(|at| {
            changes
                .iter()
                .map(|(change, weight)| change[at] * weight)
                .sum()
        })
        .collect()
}

#[test]
fn sums_negations_and_analogies_are_exact_for_lora_and_ia3() {
    for configs in [
        [lora(2, 4.0), lora(3, 1.0), lora(1, 2.0)],
        [ia3(), ia3(), ia3()],
    ] {
        let mut model = model(configs);
        // Sums of a dozen f32 products of order one, in another order.
        let close = Tolerance::rel_abs(1e-4, 1e-4);
        add_adapters(&mut model, &["a", "b", "c"], "sum").unwrap();
        let expected = combined(&model, &[("a", 1.0), ("b", 1.0), ("c", 1.0)]);
        assert_close(&change(&model, "sum"), &expected, close, "a + b + c");
        negate_adapter(&mut model, "a", "minus a").unwrap();
        let expected = combined(&model, &[("a", -1.0)]);
        assert_close(&change(&model, "minus a"), &expected, close, "-a");
        analogous_adapter(&mut model, ("a", "b"), "c", "analogy").unwrap();
        let expected = combined(&model, &[("c", 1.0), ("b", 1.0), ("a", -1.0)]);
        assert_close(&change(&model, "analogy"), &expected, close, "c + b - a");
        assert!(max_difference(&expected, &change(&model, "sum")) > 1e-2);
        // What was negated takes away what was added.
        add_adapters(&mut model, &["a", "minus a"], "nothing").unwrap();
        let nothing = change(&model, "nothing");
        assert_close(&nothing, &vec![0.0; nothing.len()], close, "a - a");
    }
}

#[test]
fn both_at_once_is_the_sum() {
    let mut model = model([lora(2, 4.0), lora(3, 1.0), lora(1, 2.0)]);
    add_adapters(&mut model, &["a", "b"], "sum").unwrap();
    let both = AdapterSelection::All(vec!["a".to_owned(), "b".to_owned()]);
    let expected = model.values(&AdapterPass::new(both));
    let got = model.values(&AdapterPass::one("sum"));
    assert_close(&got, &expected, Tolerance::rel_abs(1e-4, 1e-4), "a and b");
}

#[test]
fn vectors_of_different_kinds_and_none_at_all_are_refused() {
    let mut model = model([lora(2, 4.0), ia3(), lora(1, 2.0)]);
    let error = add_adapters(&mut model, &["a", "b"], "x").unwrap_err();
    assert!(matches!(error, Error::Incompatible { .. }), "{error}");
    let error = add_adapters(&mut model, &["b", "a"], "x").unwrap_err();
    assert!(matches!(error, Error::Incompatible { .. }), "{error}");
    let error = add_adapters(&mut model, &[], "x").unwrap_err();
    assert!(matches!(error, Error::Incompatible { .. }), "{error}");
    let error = negate_adapter(&mut model, "d", "x").unwrap_err();
    assert!(matches!(error, Error::UnknownAdapter { .. }), "{error}");
    let error = negate_adapter(&mut model, "a", "c").unwrap_err();
    assert!(matches!(error, Error::NameTaken { .. }), "{error}");
    assert_eq!(
        model.adapters().names().collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
}
