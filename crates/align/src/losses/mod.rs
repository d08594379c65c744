//! Losses: from log-probabilities to a number for each pair, answer or token, and logged parts.

mod check;
mod cpo;
mod dpo;
mod group;
mod kto;
mod orpo;
mod pair;
mod policy;
mod process;
mod reward;
mod rloo;
mod value;

pub use cpo::{CpoKind, CpoOptions, cpo};
pub use dpo::{
    DpoKind, DpoOptions, DpoTerm, FDivergence, aot, aot_unpaired, apo_down, apo_zero, bco_pair,
    discopop, dpo, exo_pair, hinge, ipo, nca_pair, robust, sigmoid, sigmoid_norm, sppo_hard,
};
pub use group::{GroupBatch, GroupKind, GroupOptions, Level, StepSize, group_policy};
pub use kto::{KtoKind, KtoOptions, kl_baseline, kto};
pub use orpo::orpo;
pub use pair::{PairLogps, PairLosses, SftTerm};
pub use policy::{PolicyTokens, ppo_policy};
pub use process::process_reward;
pub use reward::{RewardLossOptions, bradley_terry};
pub use rloo::rloo_policy;
pub use value::{ValueTokens, ppo_value};
