//! Telling a difference from noise: standard errors, intervals, paired tests, power, agreement, rankings.
//!
//! Random numbers are functions of a seed and an index, but for [`bootstrap_stderr`], which repeats the draws of the
//! reference harness so that its numbers come out again.

mod agreement;
mod draws;
mod interval;
mod paired;
mod power;
mod ranking;
mod stderr;

pub use agreement::{Distance, cohen_kappa, krippendorff_alpha};
pub use interval::{Interval, bootstrap_interval, normal_interval, wilson_interval};
pub use paired::{McNemar, PairedComparison, compare_paired, mcnemar, paired_bootstrap};
pub use power::{PowerHint, power_hint};
pub use ranking::{Game, Outcome, Rating, bradley_terry, elo};
pub use stderr::{
    bootstrap_stderr, mean, mean_stderr, pooled_sample_stderr, sample_stddev,
    unweighted_mean_stderr, weighted_mean,
};

pub(crate) use draws::draw;
pub(crate) use interval::wilson_of_rate;
