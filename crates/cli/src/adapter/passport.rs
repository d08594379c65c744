//! Passports of adapters: what they say, and whether it is true here.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use flametune_lm::{CausalLm, Checkpoint};
use flametune_peft::{Facts, Passport, SlotModule, Slots};
use flametune_quant::BaseLinear;

/// How the linear layers of a model are quantized: the kind of the first that is.
pub(super) fn quantization(model: &CausalLm) -> Option<String> {
    let mut kind = None;
    model.clone().visit_slots(&mut |slot| {
        if let SlotModule::Linear(linear) = slot.module
            && let BaseLinear::Quant(layer) = linear.base.get()
        {
            kind.get_or_insert_with(|| layer.kind().to_string());
        }
    });
    kind
}

/// Compares the passport beside an adapter, if there is one, with the base that it was loaded on:
/// another base is an error, anything else that differs a warning on standard error.
pub(crate) fn check(adapter: &Path, checkpoint: &Checkpoint, model: &CausalLm) -> Result<()> {
    let passport = Passport::read(adapter).context("cannot read the adapter's passport")?;
    match passport {
        Some(passport) => {
            let facts = super::facts(checkpoint, quantization(model))?;
            compare(&passport, &facts)
        }
        None => Ok(()),
    }
}

/// Refuses another base, and warns of everything else that differs.
pub(super) fn compare(passport: &Passport, facts: &Facts) -> Result<()> {
    for warning in passport.check(facts)? {
        writeln!(io::stderr(), "warning: {warning}")?;
    }
    Ok(())
}

/// Writes what a passport says, a line a fact.
pub(super) fn print(out: &mut impl Write, passport: &Passport) -> Result<()> {
    writeln!(out, "passport: base {}", passport.facts.base_sha256)?;
    for (name, value) in [
        ("tokenizer", &passport.facts.tokenizer_sha256),
        ("chat template", &passport.facts.chat_template_sha256),
        ("quantization", &passport.facts.quantization),
        ("data", &passport.data_digest),
    ] {
        if let Some(value) = value {
            writeln!(out, "passport: {name} {value}")?;
        }
    }
    writeln!(out, "passport: {} probes", passport.probes.len())?;
    Ok(())
}
