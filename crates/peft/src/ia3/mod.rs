//! (IA)³: learned gains of keys, values and inner activations.

mod build;
mod config;
mod linear;

pub use config::Ia3Config;
pub use linear::Ia3Linear;

use build::Ia3Builder;
