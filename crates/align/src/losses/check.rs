//! Checks of options that several losses have.

use crate::error::{Error, Result};

pub(super) fn positive(field: &'static str, value: f64) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => refused(field, format!("must be finite and above 0, got {value}")),
    }
}

pub(super) fn not_negative(field: &'static str, value: f64) -> Result<()> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => refused(
            field,
            format!("must be finite and not negative, got {value}"),
        ),
    }
}

pub(super) fn below_half(field: &'static str, value: f64) -> Result<()> {
    match (0.0..0.5).contains(&value) {
        true => Ok(()),
        false => refused(
            field,
            format!("must be at least 0 and below 0.5, got {value}"),
        ),
    }
}

pub(super) fn refused<T>(field: &'static str, reason: String) -> Result<T> {
    Err(Error::InvalidOption { field, reason })
}
