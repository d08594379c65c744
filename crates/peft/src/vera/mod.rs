//! `VeRA`: two fixed random matrices for the whole model, and two vectors a module.

mod build;
mod config;
mod linear;
mod torch_random;

pub use config::VeraConfig;
pub use linear::VeraLinear;

use build::VeraBuilder;
