//! Test support: devices, fixtures, tolerances and gradient checks.
//!
//! Layer 0, and only ever a dev-dependency: everything here fails by panicking with a message
//! that says which file, tensor or element is at fault.
//!
//! ```
//! use burn::tensor::{Tensor, TensorData};
//! use flametune_testkit::{assert_close, check_gradients, cpu, tol};
//!
//! let x = TensorData::from([[0.5_f32, -1.0], [2.0, 0.25]]);
//! let y = Tensor::<2>::from_data(x.clone(), &cpu()).tanh().into_data();
//! assert_close(&y, &[0.462_117_16_f32, -0.761_594_2, 0.964_027_6, 0.244_918_66], tol::f32(), "tanh");
//! check_gradients(|inputs| inputs.get::<2>(0).tanh(), &[x], 1e-2, tol::central_differences(1e-2));
//! ```
//!
//! Not here: models, training loops, anything a released binary needs.

#![allow(clippy::panic, reason = "test support fails by panicking")]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "tests fail by panicking"
    )
)]

mod assets;
mod close;
mod devices;
mod fixtures;
mod gradients;
pub mod tol;

pub use assets::asset_path;
pub use close::{Values, assert_close, max_difference};
pub use devices::{cpu, devices, wgpu};
pub use fixtures::{fixture_json, fixture_path, fixture_safetensors, fixture_text};
pub use gradients::{Inputs, check_gradients};
pub use tol::Tolerance;
