//! Adapters as vectors that are added, negated and compared.

use super::options::{CombinationType, CombineOptions};
use super::weighted::add_weighted_adapter;
use crate::error::Result;
use crate::slots::Slots;

/// Exact sums: LoRA factors side by side, differences from one of (IA)³ gains.
fn exact<M: Slots>(model: &mut M, terms: &[(&str, f64)], name: &str) -> Result<()> {
    let options = CombineOptions::new(CombinationType::Cat);
    add_weighted_adapter(model, terms, name, &options)
}

/// Adds the adapter `name`, which changes the base by what all of `adapters` change it by together.
///
/// The task vector of a LoRA adapter is its update `s·B·A`, that of an (IA)³ adapter is `l − 1`, how its
/// gains differ from one. Sums of them are exact; the rank of a sum of LoRA adapters is the sum of
/// their ranks.
///
/// # Errors
/// Those of [`add_weighted_adapter`](crate::add_weighted_adapter).
///
/// # Source
/// - Ilharco et al. 2022, Editing Models with Task Arithmetic, arXiv:2212.04089, §2: addition
/// - Zhang et al. 2023, Composing Parameter-Efficient Modules with Arithmetic Operations,
///   arXiv:2306.14870, §3
pub fn add_adapters<M: Slots>(model: &mut M, adapters: &[&str], name: &str) -> Result<()> {
    let terms: Vec<(&str, f64)> = adapters.iter().map(|&adapter| (adapter, 1.0)).collect();
    exact(model, &terms, name)
}

/// Adds the adapter `name`, which takes off the base what `adapter` adds to it: `−τ` for its task
/// vector `τ`, so that gains `l` become `2 − l`.
///
/// # Errors
/// Those of [`add_weighted_adapter`](crate::add_weighted_adapter).
///
/// # Source
/// - Ilharco et al. 2022, arXiv:2212.04089, §2: forgetting by negation
pub fn negate_adapter<M: Slots>(model: &mut M, adapter: &str, name: &str) -> Result<()> {
    exact(model, &[(adapter, -1.0)], name)
}

/// Adds the adapter `name` for the task that is to `c` as `b` is to `a`: `c + (b − a)`.
///
/// # Errors
/// Those of [`add_weighted_adapter`](crate::add_weighted_adapter).
///
/// # Source
/// - Ilharco et al. 2022, arXiv:2212.04089, §2: task analogies
pub fn analogous_adapter<M: Slots>(
    model: &mut M,
    (a, b): (&str, &str),
    c: &str,
    name: &str,
) -> Result<()> {
    exact(model, &[(c, 1.0), (b, 1.0), (a, -1.0)], name)
}
