//! Advantages: how much better a token or a completion was than expected. Numbers, without
//! gradients.

mod gae;
mod group;
mod reinforce;
mod rloo;
mod whiten;

pub use gae::{Gae, gae};
pub use group::{ScaleRewards, group_advantages, informative_groups};
pub use reinforce::reinforce_plus_plus;
pub use rloo::rloo_advantages;
pub use whiten::whiten;
