//! A new (IA)³ adapter as a weighted combination of others.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{DType, Tensor};

use super::options::{CombinationType, CombineOptions};
use crate::base::cast;
use crate::config::PeftConfig;
use crate::error::{Error, Result};
use crate::ia3::Ia3Config;
use crate::inject::{each_named, inject};
use crate::slots::{LinearMethod, SlotModule, Slots};
use crate::targets::TargetModules;

/// The gains of one module: those of each adapter that has some there, with its weight.
type Gains = Vec<(Tensor<2>, f64)>;

/// Adds the adapter `name`, whose gains are `Σ wᵢ·lᵢ`, or `1 + Σ wᵢ·(lᵢ − 1)` with
/// [`CombinationType::Cat`].
///
/// # Source
/// - Zhang et al. 2023, Composing Parameter-Efficient Modules with Arithmetic Operations,
///   arXiv:2306.14870, §3
/// - reference: peft `tuners/ia3/model.py::IA3Model.add_weighted_adapter`; golden
///   `fixtures/peft/arithmetic_ia3`
pub(super) fn add_weighted<M: Slots>(
    model: &mut M,
    adapters: &[(&str, f64)],
    name: &str,
    options: &CombineOptions,
) -> Result<()> {
    let kind = options.combination_type;
    if !matches!(kind, CombinationType::Linear | CombinationType::Cat) {
        return Err(incompatible(
            options,
            "is not defined for gains, use linear or cat",
        ));
    }
    if let Some((name, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
        return Err(Error::InvalidConfig {
            field: "weights",
            reason: format!("must be finite, got {weight} for `{name}`"),
        });
    }
    let config = config(model, adapters, options)?;
    let gains = collect(model, adapters);
    inject(model, name, &config.into(), 0)?;
    model.visit_slots(&mut |slot| {
        let (SlotModule::Linear(linear), Some(gains)) = (slot.module, gains.get(slot.path)) else {
            return;
        };
        for part in linear.adapters.iter_mut().filter(|part| part.name == name) {
            if let LinearMethod::Ia3(part) = &mut part.method {
                let sum = weighted_sum(gains, kind, part.ia3_l.val().zeros_like());
                part.ia3_l = Param::from_tensor(sum.detach());
            }
        }
    });
    each_named(model, name, false);
    Ok(())
}

fn weighted_sum(gains: &Gains, kind: CombinationType, zeros: Tensor<2>) -> Tensor<2> {
    if kind == CombinationType::Cat {
        let terms = gains.iter();
        return terms.fold(zeros + 1.0, |sum, (gain, weight)| {
            sum + (gain.clone() - 1.0) * *weight
        });
    }
    let terms = gains.iter();
    terms.fold(zeros, |sum, (gain, weight)| sum + gain.clone() * *weight)
}

fn collect<M: Slots>(model: &mut M, adapters: &[(&str, f64)]) -> BTreeMap<String, Gains> {
    let mut found: BTreeMap<String, Gains> = BTreeMap::new();
    model.visit_slots(&mut |slot| {
        let SlotModule::Linear(linear) = slot.module else {
            return;
        };
        for &(name, weight) in adapters {
            for part in linear.adapters.iter().filter(|part| part.name == name) {
                if let LinearMethod::Ia3(part) = &part.method {
                    let gain = cast(part.ia3_l.val().detach(), DType::F32);
                    let gains = found.entry(slot.path.to_owned()).or_default();
                    gains.push((gain, weight));
                }
            }
        }
    });
    found
}

/// The first configuration, with the modules of all of them.
fn config<M: Slots>(
    model: &M,
    adapters: &[(&str, f64)],
    options: &CombineOptions,
) -> Result<Ia3Config> {
    let mut sum: Option<Ia3Config> = None;
    for (name, _) in adapters {
        let PeftConfig::Ia3(config) = model.adapters().config(name)?.as_ref() else {
            return Err(incompatible(
                options,
                format!("`{name}` is no (IA)³ adapter"),
            ));
        };
        if config
            .modules_to_save
            .as_ref()
            .is_some_and(|names| !names.is_empty())
        {
            return Err(incompatible(
                options,
                format!("`{name}` has copies of modules"),
            ));
        }
        let Some(sum) = &mut sum else {
            sum = Some(config.clone());
            continue;
        };
        let targets = (&sum.target_modules, &config.target_modules);
        sum.target_modules = union(targets, name, options)?;
        let inner = (&sum.feedforward_modules, &config.feedforward_modules);
        sum.feedforward_modules = union(inner, name, options)?;
    }
    sum.ok_or_else(|| incompatible(options, "needs at least one adapter"))
}

fn union(
    pair: (&Option<TargetModules>, &Option<TargetModules>),
    name: &str,
    options: &CombineOptions,
) -> Result<Option<TargetModules>> {
    Ok(match pair {
        (a, b) if a == b => a.clone(),
        (Some(TargetModules::List(a)), Some(TargetModules::List(b))) => {
            let new = b.iter().filter(|name| !a.contains(name));
            Some(TargetModules::list(a.iter().chain(new).cloned()))
        }
        (Some(TargetModules::Regex(a)), Some(TargetModules::Regex(b))) => {
            Some(TargetModules::Regex(format!("({a})|({b})")))
        }
        _ => {
            let reason = format!("`{name}` names its modules in another way than the first");
            return Err(incompatible(options, reason));
        }
    })
}

fn incompatible(options: &CombineOptions, reason: impl Into<String>) -> Error {
    Error::Incompatible {
        combination_type: options.combination_type.name(),
        reason: reason.into(),
    }
}
