//! Settings that stay within a budget.

use super::Plan;
use super::settings::{Settings, Trained};
use super::shape::ModelShape;
use crate::error::{Error, Result};

/// The smallest rank that is proposed.
const MIN_RANK: usize = 4;

/// Settings that fit, and what was changed for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The plan that fits.
    pub plan: Plan,
    /// What was changed, in words; empty if nothing had to be.
    pub changes: Vec<String>,
}

/// The least changed settings that take no more than `budget` bytes.
///
/// Tried in this order, each with the micro-batch as large as it can be: smaller micro-batches with
/// more accumulation, which leaves the update as it is; recompute, which costs about a third of the
/// speed; a lower rank, which changes the model. Rows of an optimizer step, and with them its tokens, stay
/// the same.
///
/// # Errors
/// [`Error::OutOfBudget`] with what the smallest of these settings need;
/// [`Error::InvalidConfig`] when there is no row to train on.
pub fn fitting(shape: &ModelShape, wanted: &Settings, budget: u64) -> Result<Fit> {
    let rows = wanted.batch.saturating_mul(wanted.accumulation);
    if rows == 0 {
        return Err(Error::InvalidConfig {
            field: "batch",
            reason: "times accumulation must be at least 1, got 0".to_owned(),
        });
    }
    let mut smallest = u64::MAX;
    for rank in ranks(&wanted.trained) {
        for recompute in [false, true] {
            if wanted.recompute && !recompute {
                continue;
            }
            for batch in divisors(rows, wanted.batch) {
                let mut settings = wanted.clone();
                settings.batch = batch;
                settings.accumulation = rows / batch;
                settings.recompute = recompute;
                if let (Trained::LowRank(adapter), Some(rank)) = (&mut settings.trained, rank) {
                    adapter.r = rank;
                }
                let plan = Plan::of(shape, &settings);
                if plan.peak_bytes() <= budget {
                    let changes = changes(wanted, &settings);
                    return Ok(Fit { plan, changes });
                }
                smallest = smallest.min(plan.peak_bytes());
            }
        }
    }
    Err(Error::OutOfBudget {
        requested_bytes: smallest,
        available_bytes: budget,
    })
}

/// The rank as it is, then halves of it; nothing to choose in full fine-tuning.
fn ranks(trained: &Trained) -> Vec<Option<usize>> {
    let Trained::LowRank(adapter) = trained else {
        return vec![None];
    };
    let halves = std::iter::successors(Some(adapter.r), |r| (r / 2 >= MIN_RANK).then_some(r / 2));
    halves.map(Some).collect()
}

/// The divisors of `rows` from `most` down.
fn divisors(rows: usize, most: usize) -> impl Iterator<Item = usize> {
    (1..=most.min(rows))
        .rev()
        .filter(move |batch| rows.is_multiple_of(*batch))
}

fn changes(wanted: &Settings, got: &Settings) -> Vec<String> {
    let mut changes = Vec::new();
    if got.batch != wanted.batch {
        changes.push(format!(
            "batch {} instead of {}, accumulation {} instead of {}",
            got.batch, wanted.batch, got.accumulation, wanted.accumulation
        ));
    }
    if got.recompute != wanted.recompute {
        changes.push("recompute".to_owned());
    }
    if let (Trained::LowRank(got), Trained::LowRank(wanted)) = (&got.trained, &wanted.trained)
        && got.r != wanted.r
    {
        changes.push(format!("rank {} instead of {}", got.r, wanted.r));
    }
    changes
}
