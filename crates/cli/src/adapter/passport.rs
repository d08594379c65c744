//! Passports of adapters: what they say, and whether it is true here.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use flametune_lm::Checkpoint;
use flametune_peft::{Facts, Passport, SlotModule, Slots};
use flametune_quant::BaseLinear;

/// How the linear layers of a model are quantized: the kind of the first that is.
pub(crate) fn quantization<M: Slots>(model: &M) -> Option<String> {
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

/// The passport of an adapter that was trained on a base, and on data of this digest.
pub(crate) fn issue<M: Slots>(
    checkpoint: &Checkpoint,
    model: &M,
    data_digest: &str,
) -> Result<Passport> {
    let mut passport = Passport::new(super::facts(checkpoint, quantization(model))?);
    passport.data_digest = Some(data_digest.to_owned());
    Ok(passport)
}

/// Compares the passport beside an adapter, if there is one, with the base that it was loaded on:
/// another base is an error, anything else that differs a warning on standard error.
pub(crate) fn check<M: Slots>(adapter: &Path, checkpoint: &Checkpoint, model: &M) -> Result<()> {
    match read(adapter)? {
        Some(passport) => {
            let facts = super::facts(checkpoint, quantization(model))?;
            compare(&passport, &facts)
        }
        None => Ok(()),
    }
}

/// [`check`] with what is known of the base already.
pub(crate) fn check_facts(adapter: &Path, facts: &Facts) -> Result<()> {
    match read(adapter)? {
        Some(passport) => compare(&passport, facts),
        None => Ok(()),
    }
}

fn read(adapter: &Path) -> Result<Option<Passport>> {
    Passport::read(adapter).context("cannot read the adapter's passport")
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
