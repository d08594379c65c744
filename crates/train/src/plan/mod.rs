//! How much memory a run will take, before it runs.
//!
//! [`Plan::of`] adds the parts up: weights, adapters, gradients, optimizer states, the activations
//! that the backward pass keeps, and the working room of the largest operations. The formula of
//! each part stands where it is computed. [`fitting`] looks for settings that stay within a budget,
//! and [`Measured`] sets a prediction beside a dry run.
//!
//! A plan is of decoders on the CPU backend, whose fused operations decide what is kept; there are
//! no key/value caches in training.

mod activations;
mod fit;
mod head;
mod measured;
mod settings;
mod shape;
mod states;

use std::fmt;

use serde::Serialize;

use crate::record::{Bytes, table};

pub use activations::{layer_bytes, working_bytes};
pub use fit::{Fit, fitting};
pub use head::head_bytes;
pub use measured::Measured;
pub use settings::{LowRank, Magnitudes, Settings, Storage, Trained};
pub use shape::{ModelShape, Projection};

/// A part of the memory of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Its name.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u64,
}

/// The memory of a run at its peak, by component.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The parts, none of them empty.
    pub components: Vec<Component>,
    /// What they are of.
    pub settings: Settings,
}

impl Plan {
    /// Predicts the memory of training a model of `shape`.
    ///
    /// With `T = batch·seq` tokens, `L` layers, `P` trained parameters of which each takes a gradient of
    /// 4 bytes, and the layer's activations `A(T)` of [`layer_bytes`]:
    ///
    /// | component | bytes |
    /// |---|---|
    /// | base weights | by [`Storage`]: matrices of the blocks, embedding, head, norms, biases |
    /// | adapter | `4·Σ r·(d_in + d_out)` |
    /// | optimizer | moments of 4 bytes, or of one byte and 4 in 256; none that live in a file |
    /// | gradients | `4·P`; twice with accumulation, when a micro-batch's meet the sum; in full fine-tuning, where the head is the embedding, `4·vocab·d_model` when the gradients of both meet |
    /// | activations | `L·A(T)`; with recompute `A(T) + 4·T·d_model·(L + 2)` |
    /// | backward room | [`working_bytes`] |
    /// | loss | [`head_bytes`] |
    ///
    /// Sums that would overflow stay at the largest number.
    pub fn of(shape: &ModelShape, settings: &Settings) -> Self {
        let trained = settings.trained.sizes(shape);
        let parameters: u64 = trained.iter().map(|(len, count)| len * count).sum();
        let tokens = settings.tokens();
        let layers = shape.layers as u64;
        let layer = layer_bytes(shape, settings);
        let hidden = 4 * tokens * shape.d_model as u64;
        let (kept, meeting) = if settings.recompute {
            // The input of every layer, one layer's graph, a gradient and what it is multiplied with.
            (layer + hidden * (layers + 2), parameters / layers.max(1))
        } else {
            (layer.saturating_mul(layers), parameters)
        };
        let meeting = if settings.accumulation > 1 {
            meeting
        } else {
            0
        };
        let both_tables = match &settings.trained {
            Trained::Everything if shape.tied => (shape.vocab * shape.d_model) as u64,
            _ => 0,
        };
        let averages = match settings.paged_states {
            true => 0,
            false => states::bytes(&settings.rule, &trained),
        };
        let component = |name, bytes| Component { name, bytes };
        let mut components = vec![
            component("base weights", settings.storage.bytes(shape)),
            component("adapter", settings.trained.adapter_bytes(shape)),
            component("optimizer", averages),
            component("gradients", 4 * (parameters + meeting.max(both_tables))),
            component("activations", kept),
            component("backward room", working_bytes(shape, settings)),
            component("loss", head_bytes(shape, settings)),
            component("program", settings.program_bytes),
        ];
        components.retain(|component| component.bytes > 0);
        Self {
            components,
            settings: settings.clone(),
        }
    }

    /// The bytes of all components.
    pub fn peak_bytes(&self) -> u64 {
        let bytes = self.components.iter().map(|component| component.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// The bytes of one component; 0 if there are none.
    pub fn bytes_of(&self, name: &str) -> u64 {
        let component = self.components.iter().find(|part| part.name == name);
        component.map_or(0, |component| component.bytes)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = table::plain();
        table.set_header(["component", "memory", "share"]);
        let peak = self.peak_bytes();
        for Component { name, bytes } in &self.components {
            let share = 100.0 * *bytes as f64 / peak.max(1) as f64;
            table.add_row([
                (*name).to_owned(),
                Bytes(*bytes).to_string(),
                format!("{share:.1} %"),
            ]);
        }
        table.add_row([
            "peak".to_owned(),
            Bytes(peak).to_string(),
            "100.0 %".to_owned(),
        ]);
        table::align_right(&mut table, 1..3);
        write!(f, "{}\n{}", self.settings, table.trim_fmt())
    }
}

#[cfg(test)]
mod tests;
