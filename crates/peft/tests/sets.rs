//! Several adapters on one base.

use burn::tensor::{DType, Device};
use flametune_peft::{
    AdapterParts, AdapterPass, AdapterSelection, Error, LoraConfig, MergeOptions, PeftConfig,
    Slots, TargetModules, inject, merge, remove, rename, report, resolve, unmerge,
};
use flametune_testkit::{Tolerance, assert_close};

use crate::tiny::Tiny;

fn config(r: usize, target: &str) -> PeftConfig {
    LoraConfig {
        r,
        target_modules: Some(TargetModules::list([target])),
        ..LoraConfig::default()
    }
    .into()
}

fn two() -> Tiny {
    let mut model = Tiny::new(&Device::flex(), DType::F32);
    inject(&mut model, "a", &config(2, "up_proj"), 1).unwrap();
    inject(&mut model, "b", &config(3, "down_proj"), 2).unwrap();
    model.disturb("a", 0.3, 1);
    model.disturb("b", 0.3, 2);
    model
}

fn both() -> AdapterPass {
    AdapterPass::new(AdapterSelection::All(vec!["a".to_owned(), "b".to_owned()]))
}

#[test]
fn adapters_on_different_modules_are_merged_together() {
    let mut model = two();
    let expected = model.values(&both());
    merge(&mut model, &["a", "b"], &MergeOptions::default()).unwrap();
    let got = model.values(&AdapterPass::default());
    assert_close(
        &got,
        &expected,
        Tolerance::rel_abs(1e-4, 1e-4),
        "both merged",
    );
    let error = inject(&mut model, "c", &config(2, "up_proj"), 1).unwrap_err();
    assert!(matches!(error, Error::Merged { .. }), "{error}");
    unmerge(&mut model);
    assert_eq!(model.values(&both()), expected);
}

#[test]
fn a_limit_on_the_error_refuses_and_leaves_the_model_as_it_was() {
    let mut model = Tiny::new(&Device::flex(), DType::BF16);
    inject(&mut model, "a", &config(2, "up_proj"), 1).unwrap();
    model.disturb("a", 0.3, 1);
    let before = model.values(&AdapterPass::one("a"));
    let options = MergeOptions {
        max_error: Some(1e-5),
        ..MergeOptions::default()
    };
    let error = merge(&mut model, &["a"], &options).unwrap_err();
    assert!(matches!(error, Error::MergeError { .. }), "{error}");
    assert_eq!(model.values(&AdapterPass::one("a")), before);
}

#[test]
fn names_are_kept_apart() {
    let mut model = two();
    let a = model.values(&AdapterPass::one("a"));
    rename(&mut model, "a", "c").unwrap();
    assert_eq!(model.values(&AdapterPass::one("c")), a);
    assert_eq!(model.adapters().names().collect::<Vec<_>>(), ["b", "c"]);
    let unknown = |error| matches!(error, Error::UnknownAdapter { .. });
    assert!(unknown(rename(&mut model, "a", "d").unwrap_err()));
    assert!(unknown(remove(&mut model, "a").unwrap_err()));
    let taken = |error| matches!(error, Error::NameTaken { .. });
    assert!(taken(rename(&mut model, "b", "c").unwrap_err()));
    assert!(taken(
        inject(&mut model, "b", &config(1, "up_proj"), 1).unwrap_err()
    ));
    remove(&mut model, "c").unwrap();
    inject(&mut model, "a", &config(1, "up_proj"), 1).unwrap();
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    let model = two();
    let before = report(&model);
    let table = resolve(&model, &config(4, "gate_proj")).unwrap();
    let paths: Vec<&str> = table.modules.iter().map(|row| row.path.as_str()).collect();
    assert_eq!(
        paths,
        ["model.layers.0.gate_proj", "model.layers.1.gate_proj"]
    );
    assert_eq!(table.trainable, 2 * 4 * 18);
    assert_eq!(report(&model), before);
    let text = table.to_string();
    assert!(
        text.ends_with(&format!(
            "trainable 144 of {} parameters ({:.4} %), 576 bytes",
            table.total,
            table.percent()
        )),
        "{text}"
    );
}

#[test]
fn parts_outside_of_a_model_bring_their_adapter_back() {
    let mut model = two();
    let (a, b) = (
        model.values(&AdapterPass::one("a")),
        model.values(&AdapterPass::one("b")),
    );
    let bytes: usize = report(&model)
        .modules
        .iter()
        .filter(|row| row.adapter == "a")
        .map(|row| row.bytes)
        .sum();
    let parts = AdapterParts::take(&mut model, "a").unwrap();
    assert_eq!((parts.name(), parts.bytes()), ("a", bytes));
    assert_eq!(model.adapters().names().collect::<Vec<_>>(), ["b"]);
    assert_eq!(model.values(&AdapterPass::one("b")), b);
    assert!(report(&model).modules.iter().all(|row| row.adapter == "b"));
    let error = AdapterParts::take(&mut model, "a").unwrap_err();
    assert!(matches!(error, Error::UnknownAdapter { .. }), "{error}");
    // As often as one likes, into any copy.
    for _ in 0..2 {
        let mut copy = model.clone();
        parts.put(&mut copy).unwrap();
        assert_eq!(copy.values(&AdapterPass::one("a")), a);
        assert_eq!(copy.values(&AdapterPass::one("b")), b);
        let error = parts.put(&mut copy).unwrap_err();
        assert!(matches!(error, Error::NameTaken { .. }), "{error}");
        assert_eq!(copy.values(&AdapterPass::one("a")), a);
    }
}
