//! Merging with a look at what the model answers before and after.

use burn::tensor::{Tensor, activation};

use super::{MergeOptions, MergeReport, merge_layers, unload};
use crate::error::Error;
use crate::merge::unmerge;
use crate::selection::{AdapterPass, AdapterSelection};
use crate::slots::Slots;

/// [`merge_and_unload`](crate::merge_and_unload) that also measures how far the answers move.
///
/// `logits` computes them, `[rows, positions, vocab]`, on texts that matter, with the adapters of a
/// pass: before with the adapters beside the base, after without any.
/// The report holds the mean over all positions of the Kullback-Leibler divergence
/// `Σ p·(ln p − ln q)` of the answers after, `q`, from those before, `p`.
///
/// # Errors
/// Those of [`merge_and_unload`](crate::merge_and_unload) and of `logits`;
/// [`Error::LogitsMoved`] above `options.max_kl`. The model is then as it was.
pub fn merge_and_unload_measured<M, E>(
    model: &mut M,
    names: &[&str],
    options: &MergeOptions,
    logits: impl Fn(&M, &AdapterPass) -> Result<Tensor<3>, E>,
) -> Result<MergeReport, E>
where
    M: Slots,
    E: From<Error>,
{
    let all = names.iter().map(|&name| name.to_owned()).collect();
    let pass = AdapterPass::new(AdapterSelection::All(all));
    for name in names {
        model.adapters().config(name)?;
    }
    let before = logits(model, &pass)?;
    let mut report = merge_layers(model, names, options, true)?;
    let after = logits(model, &AdapterPass::default());
    let moved = after.and_then(|after| {
        let kl = divergence(before, after);
        match options.max_kl.filter(|&limit| kl.is_nan() || kl > limit) {
            Some(limit) => Err(E::from(Error::LogitsMoved { kl, limit })),
            None => Ok(kl),
        }
    });
    match moved {
        Ok(kl) => {
            report.logits_kl = Some(kl);
            unload(model)?;
            Ok(report)
        }
        Err(error) => {
            unmerge(model);
            Err(error)
        }
    }
}

/// `Σ p·(ln p − ln q)`, the mean over all positions.
fn divergence(before: Tensor<3>, after: Tensor<3>) -> f64 {
    let (p, q) = (
        activation::log_softmax(before.detach(), 2),
        activation::log_softmax(after.detach(), 2),
    );
    let each = p.clone().exp() * (p - q);
    let mean = f64::from(each.sum_dim(2).mean().into_scalar::<f32>());
    // Rounding may make it negative where nothing moves.
    if mean < 0.0 { 0.0 } else { mean }
}
