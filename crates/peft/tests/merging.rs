//! Merging into quantized bases, measured and limited.

use burn::tensor::{DType, Device};
use flametune_peft::{
    AdapterPass, Error, LoraConfig, MergeOptions, PeftConfig, SlotModule, Slots, TargetModules,
    inject, merge, merge_and_unload, merge_and_unload_measured, unmerge,
};
use flametune_quant::BaseLinear;
use flametune_testkit::{Tolerance, assert_close, max_difference};

use crate::tiny::Tiny;

fn adapted() -> Tiny {
    let (mut packed, _) = Tiny::new(&Device::flex(), DType::F32).packed_and_unpacked();
    let config: PeftConfig = LoraConfig {
        r: 2,
        target_modules: Some(TargetModules::list(["up_proj"])),
        ..LoraConfig::default()
    }
    .into();
    inject(&mut packed, "a", &config, 1).unwrap();
    packed.disturb("a", 0.3, 100);
    packed
}

fn quantized(model: &Tiny) -> Vec<bool> {
    let mut found = Vec::new();
    model.clone().visit_slots(&mut |slot| {
        if let SlotModule::Linear(linear) = slot.module {
            found.push(matches!(linear.base.get(), BaseLinear::Quant(_)));
        }
    });
    found
}

fn adapter() -> AdapterPass {
    AdapterPass::one("a")
}

fn base() -> AdapterPass {
    AdapterPass::default()
}

fn measured(
    model: &mut Tiny,
    options: &MergeOptions,
) -> Result<flametune_peft::MergeReport, Error> {
    merge_and_unload_measured(model, &["a"], options, |model, pass| {
        Ok(model.logits(pass, 3, 4))
    })
}

#[test]
fn merging_for_good_leaves_a_dense_model_with_the_same_answers() {
    let mut model = adapted();
    let expected = model.values(&adapter());
    let report = measured(&mut model, &MergeOptions::default()).unwrap();
    // The base is f32, so nothing is lost but what sums in another order lose; the divergence is a
    // sum of log-probabilities that are right to 1e-7, and cannot be smaller.
    assert!(report.max_error() < 1e-7, "{report}");
    assert!(report.logits_kl.unwrap() < 1e-7, "{report}");
    // Every layer has a row, also those that nothing was merged into.
    assert_eq!(report.modules.len(), 7, "{report}");
    let touched = report.modules.iter().filter(|module| module.change > 0.0);
    assert_eq!(touched.count(), 2);
    assert!(quantized(&model).iter().all(|packed| !packed));
    let tolerance = Tolerance::rel_abs(1e-4, 1e-4);
    assert_close(&model.values(&base()), &expected, tolerance, "dense");
    assert!(
        report.to_string().contains("mean KL of the logits"),
        "{report}"
    );
}

#[test]
fn quantizing_again_is_measured_by_weight_and_by_answer() {
    let requantize = MergeOptions {
        requantize: true,
        ..MergeOptions::default()
    };
    let mut model = adapted();
    let expected = model.values(&adapter());
    let report = measured(&mut model, &requantize).unwrap();
    assert!(quantized(&model).iter().all(|&packed| packed));
    assert_eq!(report.modules.len(), 2, "{report}");
    // NF4 of a few dozen numbers: some percent of their norm.
    let error = report.max_error();
    assert!(error > 0.01 && error < 0.2, "{report}");
    let got = model.values(&base());
    assert!(max_difference(&got, &expected) > 1e-3);
    // The divergence of the two lists of logits, by hand.
    let softmax = |row: &[f32]| -> Vec<f64> {
        let exponentials: Vec<f64> = row.iter().map(|&x| f64::from(x).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        exponentials.into_iter().map(|x| x / sum).collect()
    };
    let rows = expected
        .chunks(crate::tiny::VOCAB)
        .zip(got.chunks(crate::tiny::VOCAB));
    let each: Vec<f64> = rows
        .map(|(p, q)| {
            let pairs = softmax(p).into_iter().zip(softmax(q));
            pairs.map(|(p, q)| p * (p / q).ln()).sum()
        })
        .collect();
    let expected_kl = each.iter().sum::<f64>() / each.len() as f64;
    let kl = report.logits_kl.unwrap();
    // Differences of f32 logarithms of order one.
    assert!(
        (kl - expected_kl).abs() < 1e-5 + 1e-3 * expected_kl,
        "{kl} for {expected_kl}"
    );
}

#[test]
fn limits_refuse_and_leave_the_model_as_it_was() {
    let mut model = adapted();
    let before = (
        model.values(&base()),
        model.values(&adapter()),
        quantized(&model),
    );
    let as_before = |model: &Tiny| {
        assert_eq!(model.values(&base()), before.0);
        assert_eq!(model.values(&adapter()), before.1);
        assert_eq!(quantized(model), before.2);
        assert!(model.adapters().merged().is_empty());
    };
    let limited = |max_error, max_kl| MergeOptions {
        max_error,
        max_kl,
        requantize: true,
    };
    let error = measured(&mut model, &limited(Some(1e-3), None)).unwrap_err();
    assert!(matches!(error, Error::MergeError { .. }), "{error}");
    as_before(&model);
    let error = measured(&mut model, &limited(None, Some(1e-9))).unwrap_err();
    assert!(matches!(error, Error::LogitsMoved { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("merging would move the logits"),
        "{error}"
    );
    as_before(&model);
    let failing = merge_and_unload_measured(
        &mut model,
        &["a"],
        &limited(None, None),
        |model, pass| match pass.is_base() {
            true => Err(Error::NoPlace { method: "a test" }),
            false => Ok(model.logits(pass, 3, 4)),
        },
    );
    assert!(matches!(failing, Err(Error::NoPlace { .. })));
    as_before(&model);
    let error = measured(&mut model, &limited(None, None)).map(|_| ());
    error.unwrap();
}

#[test]
fn a_merge_that_may_be_undone_touches_adapted_layers_alone() {
    let mut model = adapted();
    let packed = quantized(&model);
    merge(&mut model, &["a"], &MergeOptions::default()).unwrap();
    let dense = quantized(&model).iter().filter(|packed| !**packed).count();
    assert_eq!(dense, 2);
    unmerge(&mut model);
    assert_eq!(quantized(&model), packed);
    merge_and_unload(&mut model, &["a"], &MergeOptions::default()).unwrap();
    assert!(quantized(&model).iter().all(|packed| !packed));
    let unknown = measured(&mut model, &MergeOptions::default()).unwrap_err();
    assert!(matches!(unknown, Error::UnknownAdapter { .. }), "{unknown}");
}
