//! Bottleneck adapters: a small MLP on, or beside, the sublayers of a model.
//!
//! ```text
//!             ┌──────────── sublayer ──→ h ─┬──────────────────────┐
//! stream ─ norm                             └→ down ─ f ─ up ─ ·s ─┴→ + ─→ + stream   sequential
//!             └───────────────────────────────→ down ─ f ─ up ─ ·s ─→ + h             parallel
//! ```
//!
//! PEFT has no such method; the names are those of the `adapters` library.

mod adapter;
mod build;
mod config;

pub use adapter::{AdapterSublayer, BottleneckAdapter, Sublayer, SublayerSlot};
pub use config::{BottleneckConfig, NonLinearity};

pub(crate) use build::BottleneckBuilder;
