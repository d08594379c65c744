//! What must hold of every method.
//!
//! `adapter_suite!(name, config, params)` stamps a module of tests: `config` is a function that
//! returns a `PeftConfig` for the tiny model, `params` the number of parameters that the method's
//! formula gives.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor};
use flametune_peft::{
    AdapterPass, AdapterSelection, DropoutKey, MergeOptions, PeftConfig, SlotModule, Slots,
    adapter_tensors, inject, load_adapter, merge, merge_and_unload, remove, report, resume_adapter,
    save_adapter, set_trainable, unmerge,
};
use flametune_testkit::{Tolerance, assert_close, max_difference};

use crate::tiny::{Tiny, values};

/// f32 sums of a dozen products of order one, in another order.
fn tolerance() -> Tolerance {
    Tolerance::rel_abs(2e-5, 2e-5)
}

fn base() -> AdapterPass {
    AdapterPass::default()
}

fn one(name: &str) -> AdapterPass {
    AdapterPass::one(name)
}

fn cpu(dtype: DType) -> Tiny {
    Tiny::new(&Device::flex(), dtype)
}

/// A model with the adapter `a`, all of whose parameters matter.
fn disturbed(config: &PeftConfig, dtype: DType) -> Tiny {
    let mut model = cpu(dtype);
    inject(&mut model, "a", config, 1).unwrap();
    model.disturb("a", 0.3, 100);
    let difference = max_difference(&model.values(&one("a")), &model.values(&base()));
    assert!(difference > 1e-3, "the adapter does not show: {difference}");
    model
}

pub(crate) fn init_is_identity(config: &PeftConfig) {
    let mut model = cpu(DType::F32);
    let expected = model.values(&base());
    inject(&mut model, "a", config, 1).unwrap();
    let got = model.values(&one("a"));
    assert_close(&got, &expected, tolerance(), "logits at init");
}

struct Found<'a> {
    gradients: &'a Gradients,
    with: usize,
    without: usize,
}

impl ModuleVisitor for Found<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        match param.val().grad(self.gradients) {
            Some(gradient) => {
                self.with += 1;
                assert!(values(gradient).iter().all(|x| x.is_finite()));
            }
            None => self.without += 1,
        }
    }
}

pub(crate) fn gradients_only_where_they_belong(config: &PeftConfig) {
    let mut model = Tiny::new(&Device::flex().autodiff(), DType::F32);
    inject(&mut model, "a", config, 1).unwrap();
    inject(&mut model, "b", config, 2).unwrap();
    model.disturb("a", 0.3, 100);
    set_trainable(&mut model, &["a"]).unwrap();
    let gradients = model
        .logits(&one("a"), 3, 4)
        .powi_scalar(2)
        .sum()
        .backward();
    let found = |module: &dyn Fn(&mut Found<'_>)| {
        let mut found = Found {
            gradients: &gradients,
            with: 0,
            without: 0,
        };
        module(&mut found);
        (found.with, found.without)
    };
    let mut trained = 0;
    model.visit_slots(&mut |slot| {
        let base = found(&|f| match &slot.module {
            SlotModule::Linear(linear) => linear.base.get().visit(f),
            SlotModule::Embedding(table) => table.weight.visit(f),
            SlotModule::Norm(norm) => (norm.weight.visit(f), norm.bias.visit(f)).0,
            SlotModule::Vector(vector) => vector.visit(f),
            SlotModule::Prompt(_) | SlotModule::Sublayer(_) => {}
        });
        assert_eq!(base.0, 0, "the base of {} has gradients", slot.path);
        let parts: Vec<(String, (usize, usize))> = match slot.module {
            SlotModule::Linear(linear) => linear
                .adapters
                .iter()
                .map(|part| (part.name.clone(), found(&|f| part.visit(f))))
                .collect(),
            SlotModule::Embedding(table) => table
                .adapters
                .iter()
                .map(|part| (part.name.clone(), found(&|f| part.visit(f))))
                .collect(),
            SlotModule::Norm(norm) => norm
                .adapters
                .iter()
                .map(|part| (part.name.clone(), found(&|f| part.visit(f))))
                .collect(),
            SlotModule::Sublayer(sublayer) => sublayer
                .adapters
                .iter()
                .map(|part| (part.name.clone(), found(&|f| part.visit(f))))
                .collect(),
            SlotModule::Prompt(_) | SlotModule::Vector(_) => Vec::new(),
        };
        for (name, (with, without)) in parts {
            match name.as_str() {
                "a" => {
                    assert_eq!(without, 0, "a parameter on {} has no gradient", slot.path);
                    trained += with;
                }
                _ => assert_eq!(with, 0, "another adapter on {} has gradients", slot.path),
            }
        }
    });
    assert!(trained > 0);
}

pub(crate) fn merged_equals_unmerged(config: &PeftConfig) {
    for dtype in [DType::F32, DType::BF16] {
        let mut model = disturbed(config, dtype);
        let expected = model.values(&one("a"));
        let peak = expected
            .iter()
            .fold(0.0, |peak: f64, &x| peak.max(f64::from(x.abs())));
        let report = merge_and_unload(&mut model, &["a"], &MergeOptions::default()).unwrap();
        let (tolerance, limit) = match dtype {
            DType::F32 => (Tolerance::rel_abs(1e-4, 1e-4), 1e-7),
            // The merged weight is rounded to 8 bits of mantissa, in a few layers one after the other.
            _ => (Tolerance::rel_abs(0.0, peak / 32.0), 4e-3),
        };
        assert!(report.max_error() <= limit, "{report}");
        let got = model.values(&base());
        assert_close(&got, &expected, tolerance, &format!("merged in {dtype:?}"));
        assert_eq!(model.adapters().names().count(), 0);
    }
}

pub(crate) fn unmerge_restores(config: &PeftConfig) {
    for dtype in [DType::F32, DType::BF16] {
        let mut model = disturbed(config, dtype);
        let (base_logits, adapted) = (model.values(&base()), model.values(&one("a")));
        merge(&mut model, &["a"], &MergeOptions::default()).unwrap();
        assert_ne!(model.values(&base()), base_logits);
        assert!(
            one("a").check(model.adapters(), 3).is_err(),
            "merged and chosen"
        );
        assert!(remove(&mut model, "a").is_err(), "merged and removed");
        unmerge(&mut model);
        assert_eq!(model.values(&base()), base_logits, "{dtype:?}");
        assert_eq!(model.values(&one("a")), adapted, "{dtype:?}");
    }
}

pub(crate) fn two_adapters_switch_independently(config: &PeftConfig) {
    let mut model = disturbed(config, DType::F32);
    let alone = model.values(&one("a"));
    inject(&mut model, "b", config, 2).unwrap();
    model.disturb("b", 0.4, 500);
    assert_eq!(model.values(&one("a")), alone);
    let other = model.values(&one("b"));
    assert!(max_difference(&other, &alone) > 1e-3);
    remove(&mut model, "a").unwrap();
    assert_eq!(model.values(&one("b")), other);
}

pub(crate) fn disabled_equals_base(config: &PeftConfig) {
    let expected = cpu(DType::F32).values(&base());
    let mut model = disturbed(config, DType::F32);
    assert_eq!(model.values(&base()), expected);
    remove(&mut model, "a").unwrap();
    assert_eq!(model.values(&base()), expected);
}

pub(crate) fn mixed_batch_equals_separate_runs(config: &PeftConfig) {
    let mut model = disturbed(config, DType::F32);
    inject(&mut model, "b", config, 2).unwrap();
    model.disturb("b", 0.4, 500);
    let (rows, seq) = (5, 3);
    let run = |pass: &AdapterPass| values(model.logits(pass, rows, seq));
    let all: BTreeMap<&str, Vec<f32>> = [
        ("a", run(&one("a"))),
        ("b", run(&one("b"))),
        ("", run(&base())),
    ]
    .into();
    for choice in [
        ["b", "", "a", "a", "b"],
        ["a", "a", "b", "b", ""],
        ["", "", "", "", "a"],
    ] {
        let names = choice
            .iter()
            .map(|&name| (!name.is_empty()).then(|| name.to_owned()));
        let got = run(&AdapterPass::new(AdapterSelection::PerRow(names.collect())));
        let width = got.len() / rows;
        for (row, name) in choice.iter().enumerate() {
            let range = row * width..(row + 1) * width;
            // Products of fewer rows may take another path of the kernel.
            assert_close(
                &got[range.clone()],
                &all[name][range],
                tolerance(),
                &format!("row {row}"),
            );
        }
    }
}

pub(crate) fn saving_and_loading_keeps_everything(config: &PeftConfig) {
    let folder = tempfile::tempdir().unwrap();
    let model = disturbed(config, DType::F32);
    save_adapter(&model, "a", folder.path()).unwrap();
    let mut loaded = cpu(DType::F32);
    load_adapter(&mut loaded, "z", folder.path()).unwrap();
    assert_eq!(loaded.values(&one("z")), model.values(&one("a")));
    assert_eq!(report(&loaded).trainable, 0, "loaded adapters are frozen");
    set_trainable(&mut loaded, &["z"]).unwrap();
    assert_eq!(report(&loaded).trainable, report(&model).trainable);
    let tensors = |model: &Tiny, name| adapter_tensors(model, name).unwrap();
    assert_eq!(tensors(&loaded, "z"), tensors(&model, "a"));
    let again = tempfile::tempdir().unwrap();
    save_adapter(&loaded, "z", again.path()).unwrap();
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(file)).unwrap();
        assert!(read(&folder) == read(&again), "{file}");
    }
}

pub(crate) fn parameter_count_equals_the_formula(config: &PeftConfig, params: usize) {
    let mut model = cpu(DType::F32);
    let before = report(&model).total;
    inject(&mut model, "a", config, 1).unwrap();
    let counted = report(&model);
    assert_eq!(counted.trainable, params, "{counted}");
    assert!(counted.total >= before && counted.total <= before + params);
}

pub(crate) fn dropout_is_a_function_of_seed_and_step(config: &PeftConfig) {
    let model = disturbed(config, DType::F32);
    let at = |seed, step| model.values(&one("a").with_dropout(DropoutKey { seed, step }));
    assert_eq!(at(1, 7), at(1, 7));
    assert_eq!(model.values(&one("a")), model.values(&one("a")));
    if model.values(&one("a")) != at(1, 7) {
        assert_ne!(at(1, 7), at(1, 8));
        assert_ne!(at(1, 7), at(2, 7));
    }
}

struct Descent<'a>(&'a Gradients);

impl ModuleMapper for Descent<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match param.val().grad(self.0) {
            None => param,
            Some(gradient) => param.map(|old| {
                let place = (&old.device(), old.dtype());
                let step = Tensor::<D>::from_data(gradient.into_data(), place) * 0.01;
                (old - step).detach().set_require_grad(true)
            }),
        }
    }
}

/// One step of gradient descent on all that is trained.
fn step(model: &mut Tiny, name: &str) {
    let logits = model.logits(&one(name), 3, 4);
    let gradients = logits.powi_scalar(2).mean().backward();
    let descent = &mut Descent(&gradients);
    model.visit_slots(&mut |slot| match slot.module {
        SlotModule::Linear(linear) => {
            for part in linear.adapters.iter_mut().filter(|part| part.name == name) {
                part.method = part.method.clone().map(descent);
            }
        }
        SlotModule::Embedding(table) => {
            for part in table.adapters.iter_mut().filter(|part| part.name == name) {
                part.method = part.method.clone().map(descent);
            }
        }
        SlotModule::Norm(norm) => {
            for part in norm.adapters.iter_mut().filter(|part| part.name == name) {
                part.method = part.method.clone().map(descent);
            }
        }
        SlotModule::Sublayer(sublayer) => {
            let parts = sublayer.adapters.iter_mut();
            for part in parts.filter(|part| part.name == name) {
                part.method = part.method.clone().map(descent);
            }
        }
        SlotModule::Prompt(_) | SlotModule::Vector(_) => {}
    });
}

pub(crate) fn training_goes_on_after_loading(config: &PeftConfig) {
    let device = Device::flex().autodiff();
    let mut unbroken = Tiny::new(&device, DType::F32);
    inject(&mut unbroken, "a", config, 1).unwrap();
    unbroken.disturb("a", 0.3, 100);
    step(&mut unbroken, "a");
    let folder = tempfile::tempdir().unwrap();
    save_adapter(&unbroken, "a", folder.path()).unwrap();
    let saved = adapter_tensors(&unbroken, "a").unwrap();
    let mut resumed = Tiny::new(&device, DType::F32);
    resume_adapter(&mut resumed, "b", folder.path()).unwrap();
    assert_eq!(report(&resumed).trainable, report(&unbroken).trainable);
    step(&mut unbroken, "a");
    step(&mut resumed, "b");
    let ends = adapter_tensors(&unbroken, "a").unwrap();
    assert_ne!(ends, saved, "the step changed nothing");
    assert_eq!(adapter_tensors(&resumed, "b").unwrap(), ends);
}

/// The model over packed weights and over the numbers they stand for, and what both compute.
fn over_packed_weights(config: &PeftConfig) -> (Tiny, Vec<f32>, Vec<f32>) {
    let (mut packed, mut unpacked) = cpu(DType::F32).packed_and_unpacked();
    for model in [&mut packed, &mut unpacked] {
        inject(model, "a", config, 1).unwrap();
        model.disturb("a", 0.3, 100);
    }
    let expected = unpacked.values(&one("a"));
    let got = packed.values(&one("a"));
    // The same numbers in both, summed in another order.
    assert_close(&got, &expected, tolerance(), "over packed weights");
    (packed, got, expected)
}

pub(crate) fn computes_over_packed_weights(config: &PeftConfig) {
    over_packed_weights(config);
}

pub(crate) fn works_over_packed_weights(config: &PeftConfig) {
    let (mut packed, got, expected) = over_packed_weights(config);
    merge(&mut packed, &["a"], &MergeOptions::default()).unwrap();
    let merged = packed.values(&base());
    let tolerance = Tolerance::rel_abs(1e-4, 1e-4);
    assert_close(&merged, &expected, tolerance, "merged into packed weights");
    unmerge(&mut packed);
    assert_eq!(packed.values(&one("a")), got);
}

/// Stamps the tests of one method.
macro_rules! adapter_suite {
    ($name:ident, $config:expr, $params:expr) => {
        mod $name {
            use super::*;

            adapter_suite!(@each $config,
                init_is_identity,
                gradients_only_where_they_belong,
                merged_equals_unmerged,
                unmerge_restores,
                two_adapters_switch_independently,
                disabled_equals_base,
                mixed_batch_equals_separate_runs,
                saving_and_loading_keeps_everything,
                training_goes_on_after_loading,
                dropout_is_a_function_of_seed_and_step,
                works_over_packed_weights,
            );

            #[test]
            fn parameter_count_equals_the_formula() {
                crate::suite::parameter_count_equals_the_formula(&$config().into(), $params);
            }
        }
    };
    (unmergeable $name:ident, $config:expr, $params:expr) => {
        mod $name {
            use super::*;

            adapter_suite!(@each $config,
                init_is_identity,
                gradients_only_where_they_belong,
                two_adapters_switch_independently,
                disabled_equals_base,
                mixed_batch_equals_separate_runs,
                saving_and_loading_keeps_everything,
                training_goes_on_after_loading,
                dropout_is_a_function_of_seed_and_step,
                computes_over_packed_weights,
            );

            #[test]
            fn parameter_count_equals_the_formula() {
                crate::suite::parameter_count_equals_the_formula(&$config().into(), $params);
            }
        }
    };
    (@each $config:expr, $($check:ident,)*) => {
        $(
            #[test]
            fn $check() {
                crate::suite::$check(&$config().into());
            }
        )*
    };
}
