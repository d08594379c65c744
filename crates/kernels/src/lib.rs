//! Custom tensor operations of Flametune: reference, native CPU and GPU forms side by side.
//!
//! Layer 0: this crate knows tensors, and nothing of models, files or tokens (but for
//! [`MappedFile`], because mapping memory is `unsafe` and `unsafe` code lives here only).
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use flametune_kernels::{AttentionMask, attention, linear, rms_norm};
//!
//! let device = Device::default();
//! let x = Tensor::<3>::from_floats([[[1.0, -2.0], [0.5, 1.0]]], &device);
//! let weight = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &device);
//! let h = rms_norm(x, Tensor::ones([2], &device), 1e-6);
//! let q = linear(h, weight, None).unsqueeze_dim::<4>(1); // [batch, heads, seq, head_dim]
//! let y = attention(q.clone(), q.clone(), q, &AttentionMask::causal(0), 0.7, None);
//! assert_eq!(y.dims(), [1, 1, 2, 2]);
//! ```
//!
//! # Forms of an operation
//!
//! Every public function checks its shapes and then takes one of these forms, which give the same
//! numbers:
//!
//! - the **native** form, when its tensors live on Burn's Flex backend, with or without autodiff,
//!   in f32 ([`linear`] also takes bf16 and f16 weights under f32 activations);
//! - the **CubeCL** form, with feature `cube`, when they live on wgpu or CUDA, in f32 and in the
//!   16-bit floats that the device computes with: [`packed_linear`], [`dequantize`],
//!   [`quantize_blocks`], [`rms_norm`], [`layer_norm`], [`swiglu`], [`geglu_tanh`];
//! - the **reference** form, in plain tensor operations, in every other case: other operations
//!   and dtypes, any backend Burn may grow.
//!
//! The choice is made by looking at the device, before Burn's dispatch is entered. The native
//! forms are registered with `#[backend_extension(Flex, Autodiff)]` alone, so the dispatch has no
//! arm that could be missing. The CubeCL forms are traits of their own, registered with
//! `#[backend_extension(Cube, Autodiff, Fusion)]`.
//!
//! All forms are differentiable. The native ones keep what their hand-written backward pass needs
//! and nothing else: a frozen weight costs no copy of the activations.
//!
//! # Determinism
//!
//! Native forms add in an order fixed by shapes and by the instruction set, never by the number
//! of threads.
//!
//! # Features
//!
//! - `cube`: our CubeCL kernels, for the backends that Burn reaches through CubeCL. Needs one of
//!   them in the build: Burn's `wgpu` or `cuda`. Turns Burn's `fusion` on, which the kernels have
//!   a form for.
//!
//! # Not here
//!
//! Models, configurations, file formats, quantization codebooks.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod allocator;
mod alone;
mod attention;
mod cpu;
mod cross_entropy;
#[cfg(feature = "cube")]
mod cube;
mod gated;
mod linear;
mod lora;
mod mmap;
mod norm;
mod packed;
mod precision;
pub mod reference;
mod rope;
#[cfg(test)]
mod sample;
mod simd;

pub use allocator::keep_freed_memory;
pub use alone::rows_alone;
pub use attention::{
    AttentionMask, PagedKeysValues, PagedScores, PagedSequence, attention, attention_with,
};
pub use cpu::in_pool;
pub use cross_entropy::{
    CrossEntropy, CrossEntropyOutput, LogitOptions, linear_cross_entropy, linear_logps,
    linear_logps_with_entropy,
};
pub use gated::{geglu_tanh, swiglu, swiglu_with};
pub use linear::{linear, linear_with};
pub use lora::{LoraBase, LoraDropout, LoraFactors, LoraSegment, lora_linear, lora_segmented};
pub use mmap::MappedFile;
pub use norm::{layer_norm, rms_norm, rms_norm_with};
pub use packed::{
    CodeFormat, PackedScales, PackedWeight, dequantize, packed_linear, quantize_blocks,
};
pub use precision::Precision;
pub use rope::rope;
pub use simd::instruction_set;
