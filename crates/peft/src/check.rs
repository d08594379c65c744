//! What the configurations of all methods must hold.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::config::is_active;
use crate::error::{Error, Result};
use crate::targets::TargetModules;

/// The error for a value out of range.
pub(crate) fn invalid(field: &'static str, reason: String) -> Error {
    Error::InvalidConfig { field, reason }
}

/// The error for an option that is active and not implemented.
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers give numbers and texts alike"
)]
pub(crate) fn unsupported(field: &'static str, value: impl ToString, hint: &'static str) -> Error {
    Error::UnsupportedOption {
        field,
        value: value.to_string(),
        hint,
    }
}

/// At least one.
pub(crate) fn rank(field: &'static str, r: usize) -> Result<()> {
    if r == 0 {
        return Err(invalid(field, "must be at least 1, got 0".to_owned()));
    }
    Ok(())
}

/// A rank of at least one, and so for every module that differs.
pub(crate) fn ranks(r: usize, rank_pattern: &BTreeMap<String, usize>) -> Result<()> {
    rank("r", r)?;
    let mut others = rank_pattern.values();
    others.try_for_each(|&r| rank("rank_pattern", r))
}

/// The numerator of a scaling, and those of modules that differ: finite and not negative.
pub(crate) fn alphas(
    field: &'static str,
    alpha: f64,
    alpha_pattern: &BTreeMap<String, f64>,
) -> Result<()> {
    scale(field, alpha)?;
    let mut others = alpha_pattern.values();
    others.try_for_each(|&alpha| scale("alpha_pattern", alpha))
}

/// A finite number.
pub(crate) fn finite(field: &'static str, value: f64) -> Result<()> {
    if !value.is_finite() {
        return Err(invalid(field, format!("must be finite, got {value}")));
    }
    Ok(())
}

/// A finite number that is not negative.
pub(crate) fn scale(field: &'static str, value: f64) -> Result<()> {
    finite(field, value)?;
    if value < 0.0 {
        return Err(invalid(field, format!("must not be negative, got {value}")));
    }
    Ok(())
}

/// A probability of dropping something, which leaves something.
pub(crate) fn dropout(field: &'static str, p: f64) -> Result<()> {
    if !(0.0..1.0).contains(&p) {
        return Err(invalid(field, format!("must be in [0, 1), got {p}")));
    }
    Ok(())
}

/// Modules that are named.
pub(crate) fn given(target_modules: Option<&TargetModules>) -> Result<()> {
    if target_modules.is_none() {
        return Err(invalid("target_modules", "must be given".to_owned()));
    }
    Ok(())
}

/// Fields of a file that are not active.
pub(crate) fn idle(
    fields: &Map<String, Value>,
    refused: &[(&'static str, &'static str)],
) -> Result<()> {
    for &(field, hint) in refused {
        if let Some(value) = fields.get(field).filter(|value| is_active(value)) {
            return Err(unsupported(field, value, hint));
        }
    }
    Ok(())
}
