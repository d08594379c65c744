//! What a plan is asked about.

use std::fmt;

use flametune_peft::TrainableReport;
use flametune_quant::QuantConfig;
use serde::Serialize;

use super::shape::{ModelShape, Projection};
use crate::optim::Rule;

/// How the frozen weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// As floats of so many bytes.
    Dense {
        /// 4 for f32, 2 for bf16 and f16.
        bytes: usize,
    },
    /// The matrices of the blocks packed, everything else as floats.
    Quantized {
        /// How they are packed.
        config: QuantConfig,
        /// The bytes of everything else.
        bytes: usize,
    },
}

impl Storage {
    /// The bytes of a model's weights.
    ///
    /// A packed matrix of `n` numbers in blocks of `B` takes `n/2` bytes in four bits (`n` in eight)
    /// and `4·⌈n/B⌉` for its scales, or `⌈n/B⌉ + 4·⌈⌈n/B⌉/256⌉ + 4` with double quantization.
    pub fn bytes(&self, shape: &ModelShape) -> u64 {
        let layer: usize = shape
            .projections()
            .iter()
            .map(|projection| {
                let dims = shape.dims(*projection);
                match self {
                    Self::Dense { bytes } => bytes * dims[0] * dims[1],
                    Self::Quantized { config, .. } => config.bytes(&dims),
                }
            })
            .sum();
        let (Self::Dense { bytes } | Self::Quantized { bytes, .. }) = self;
        let rest = shape.outer() + shape.layers * shape.layer_vectors();
        (shape.layers * layer + bytes * rest) as u64
    }
}

/// Whether low-rank adapters train the lengths of their rows (DoRA), and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Magnitudes {
    /// They do not.
    #[default]
    None,
    /// They do, without dropout.
    Trained,
    /// They do, with dropout, which the base then sees as well.
    WithDropout,
}

/// Low-rank adapters on the layers of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LowRank {
    /// The rank.
    pub r: usize,
    /// The projections that have one, in every layer.
    pub projections: Vec<Projection>,
    /// Trained parameters beside these: biases, magnitudes, saved modules.
    pub other: usize,
    /// Whether there are magnitudes among them.
    pub magnitudes: Magnitudes,
}

impl LowRank {
    /// Adapters of rank `r` on every linear layer of the blocks.
    pub fn all_linear(shape: &ModelShape, r: usize) -> Self {
        Self {
            r,
            projections: shape.projections().to_vec(),
            other: 0,
            magnitudes: Magnitudes::None,
        }
    }

    /// What a model in memory has: the largest rank, on every projection that any layer adapts.
    ///
    /// A report does not tell of [`magnitudes`](Self::magnitudes).
    pub fn of_report(report: &TrainableReport, shape: &ModelShape) -> Self {
        let ranked = report
            .modules
            .iter()
            .filter(|row| row.trainable && row.r.is_some());
        let mut projections: Vec<Projection> = ranked
            .clone()
            .filter_map(|row| Projection::of_path(&row.path))
            .collect();
        projections.sort_unstable();
        projections.dedup();
        let mut adapter = Self {
            r: ranked.filter_map(|row| row.r).max().unwrap_or(0),
            projections,
            other: 0,
            magnitudes: Magnitudes::None,
        };
        adapter.other = report.trainable.saturating_sub(adapter.parameters(shape));
        adapter
    }

    /// `L·Σ r·(d_in + d_out)`, and the others.
    pub fn parameters(&self, shape: &ModelShape) -> usize {
        let pair = |projection: &Projection| shape.dims(*projection).iter().sum::<usize>();
        let pairs: usize = self.projections.iter().map(pair).sum();
        shape.layers * self.r * pairs + self.other
    }
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trained {
    /// Adapters; the model is frozen.
    LowRank(LowRank),
    /// Every parameter of the model.
    Everything,
}

impl Trained {
    /// The sizes of the trained tensors, and how many there are of each.
    pub(super) fn sizes(&self, shape: &ModelShape) -> Vec<(u64, u64)> {
        let layers = shape.layers as u64;
        let sizes: Vec<(usize, u64)> = match self {
            Self::LowRank(adapter) => {
                let pair = |projection: &Projection| {
                    let [d_out, d_in] = shape.dims(*projection);
                    [(adapter.r * d_in, layers), (adapter.r * d_out, layers)]
                };
                let pairs = adapter.projections.iter().flat_map(pair);
                pairs.chain([(adapter.other, 1)]).collect()
            }
            Self::Everything => {
                let matrix = |projection: &Projection| {
                    (shape.dims(*projection).iter().product::<usize>(), layers)
                };
                let matrices = shape.projections().iter().map(matrix);
                let rest = [(shape.layer_vectors(), layers), (shape.outer(), 1)];
                matrices.chain(rest).collect()
            }
        };
        let wide = |(len, count): (usize, u64)| (len as u64, count);
        sizes.into_iter().map(wide).collect()
    }

    /// The bytes of parameters that the model does not have by itself; adapters are f32.
    pub(super) fn adapter_bytes(&self, shape: &ModelShape) -> u64 {
        match self {
            Self::LowRank(adapter) => 4 * adapter.parameters(shape) as u64,
            Self::Everything => 0,
        }
    }

    /// Whether the input of `projection` is kept for the gradient of a weight.
    pub(super) fn keeps_input(&self, projection: Projection) -> bool {
        match self {
            // With dropout every projection of DoRA keeps an input of its own.
            Self::LowRank(adapter) => {
                adapter.magnitudes != Magnitudes::WithDropout
                    && adapter.projections.contains(&projection)
            }
            Self::Everything => true,
        }
    }
}

/// The settings of a run that its memory depends on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// How the weights are stored.
    #[serde(skip)]
    pub storage: Storage,
    /// What is trained.
    pub trained: Trained,
    /// The optimizer.
    pub rule: Rule,
    /// Rows of a micro-batch.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// Micro-batches of an optimizer step.
    pub accumulation: usize,
    /// The share of tokens that are trained, in `[0, 1]`.
    pub supervised: f64,
    /// Whether layers are computed again in the backward pass.
    pub recompute: bool,
    /// Whether the optimizer's averages live in a file.
    pub paged_states: bool,
    /// What the program takes before it has a model.
    pub program_bytes: u64,
}

impl Settings {
    /// Tokens of a micro-batch.
    pub fn tokens(&self) -> u64 {
        (self.batch as u64).saturating_mul(self.seq as u64)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trained {
            Trained::LowRank(adapter) => write!(f, "rank {}, ", adapter.r)?,
            Trained::Everything => write!(f, "all parameters, ")?,
        }
        write!(
            f,
            "batch {} x {} tokens, accumulation {}, {} recompute",
            self.batch,
            self.seq,
            self.accumulation,
            if self.recompute { "with" } else { "without" }
        )
    }
}
