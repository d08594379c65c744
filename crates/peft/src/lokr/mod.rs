//! `LoKr`: the Kronecker product of two small matrices.

mod config;
mod linear;
mod shape;

pub use config::{InitLokrWeights, LoKrConfig};
pub use linear::LoKrLinear;
