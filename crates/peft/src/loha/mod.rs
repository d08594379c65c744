//! `LoHa`: the elementwise product of two low-rank matrices.

mod config;
mod linear;

pub use config::LoHaConfig;
pub use linear::LoHaLinear;
