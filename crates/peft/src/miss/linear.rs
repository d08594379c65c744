//! `MiSS` on a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use flametune_kernels::linear;
use flametune_quant::BaseLinear;

use super::config::{InitMissWeights, MissConfig};
use crate::base::{self, cast, meet};
use crate::error::Result;
use crate::random::Stream;
use crate::slots::{DeltaLinear, LinearAdapter, LinearInput, PartInfo};
use crate::tensors::TensorName;

/// An update of a frozen linear layer with one small matrix, whose rows are shared by inputs.
///
/// `y = x·W₀ᵀ + b + S(dropout(x))·D`, where `S` sums the inputs whose numbers are equal modulo `r`
///
/// With mini, `D` has `mini_r` columns, and output `j` uses column `j mod mini_r`.
/// Both are computed in activation space, and work on packed weights as they are.
///
/// With bat, `D` is a block `[r, r]` for each `r` outputs, and the block `i, j` of the weight becomes
/// `W_ij + W_ij·D_i + D_i`.
/// Its update multiplies each group of outputs with other inputs, so it needs the weight itself: packed
/// weights are unpacked in every pass.
///
/// # Shapes
/// - `miss_block`: `[r, d_out]`; mini: `[r, mini_r]`; bat: `[d_out / r, r, r]`
///
/// # Source
/// - Kang and Yin 2024, `MiSS` (first called Bone), arXiv:2409.15371
/// - reference: peft `tuners/miss/layer.py::MissLinear`; goldens `fixtures/peft/miss`,
///   `fixtures/peft/miss_bat`, `fixtures/peft/miss_mini`
/// - differs: several adapters with bat are each relative to the base, not to the one before
#[derive(Module, Debug)]
pub struct MissLinear {
    /// The matrix.
    pub miss_block: MissBlock,
    #[module(skip)]
    r: usize,
    /// The probability of dropping an input.
    #[module(skip)]
    pub dropout: f64,
    /// Chooses the random numbers of dropout.
    #[module(skip)]
    key: u64,
}

/// The trained matrix in one of its forms.
#[derive(Module, Debug)]
pub enum MissBlock {
    /// `[r, d_out]`, or fewer columns that the outputs share in turn.
    Columns(Param<Tensor<2>>),
    /// `[d_out / r, r, r]`.
    Squares(Param<Tensor<3>>),
}

impl MissLinear {
    pub(super) fn init(config: &MissConfig, base: &BaseLinear, (seed, key): (u64, u64)) -> Self {
        let (r, d_out) = (config.r, base.d_out());
        let place = (&base::device(base), DType::F32);
        let columns = |columns| MissBlock::Columns(Param::from_tensor(columns));
        let miss_block = match config.init_weights {
            InitMissWeights::Bat => {
                let zeros = Tensor::zeros([d_out / r, r, r], place);
                MissBlock::Squares(Param::from_tensor(zeros))
            }
            InitMissWeights::Mini => columns(Tensor::zeros([r, config.mini_r], place)),
            InitMissWeights::Random => {
                columns(Stream::new(&[seed, key]).kaiming_uniform([r, d_out], place))
            }
            InitMissWeights::Zeros | InitMissWeights::Other(_) => {
                columns(Tensor::zeros([r, d_out], place))
            }
        };
        Self {
            miss_block,
            r,
            dropout: config.miss_dropout,
            key,
        }
    }

    /// The rank of the update.
    pub fn r(&self) -> usize {
        self.r
    }

    /// The sums of inputs whose numbers are equal modulo `r`, `[rows, r]`.
    fn folded(&self, x: Tensor<2>) -> Tensor<2> {
        let [rows, d_in] = x.dims();
        let groups = d_in.div_ceil(self.r);
        let missing = groups * self.r - d_in;
        let x = if missing == 0 {
            x
        } else {
            let zeros = Tensor::zeros([rows, missing], (&x.device(), x.dtype()));
            Tensor::cat(vec![x, zeros], 1)
        };
        x.reshape([rows, groups, self.r])
            .sum_dim(1)
            .reshape([rows, self.r])
    }
}

/// `W·D + D` block by block, `[d_out, d_in]`.
fn block_change(weight: Tensor<2>, blocks: Tensor<3>) -> Tensor<2> {
    let [d_out, d_in] = weight.dims();
    let [groups, r, _] = blocks.dims();
    let across = d_in / r;
    let rows = cast(weight, blocks.dtype()).reshape([groups, r * across, r]);
    let product = rows.matmul(blocks.clone()).reshape([groups, r, across, r]);
    (product + blocks.unsqueeze_dim::<4>(2)).reshape([d_out, d_in])
}

impl LinearAdapter for MissLinear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        let dtype = y.dtype();
        let update = match &self.miss_block {
            MissBlock::Columns(columns) => {
                let columns = columns.val();
                let x = input.dropout.apply(input.x, self.dropout, self.key);
                let x = self.folded(meet(x, columns.dtype()));
                let shared = columns.dims()[1];
                let update = linear(x, columns.transpose(), None);
                update.repeat_dim(1, input.base.d_out() / shared)
            }
            MissBlock::Squares(blocks) => {
                let change = block_change(base::dense_weight(input.base), blocks.val());
                linear(meet(input.x, change.dtype()), change, None)
            }
        };
        y + cast(update, dtype)
    }

    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        let weight = match &self.miss_block {
            MissBlock::Columns(columns) => {
                let columns = cast(columns.val(), DType::F32);
                let shared = columns.dims()[1];
                let rows = columns.transpose().repeat_dim(0, base.d_out() / shared);
                rows.repeat_dim(1, base.d_in().div_ceil(self.r))
                    .narrow(1, 0, base.d_in())
            }
            MissBlock::Squares(blocks) => {
                block_change(base::dense_weight(base), cast(blocks.val(), DType::F32))
            }
        };
        Ok(DeltaLinear {
            weight: Some(weight),
            bias: None,
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("miss", Some(self.r))
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const {
            &[
                TensorName::new("Columns", "miss_block"),
                TensorName::new("Squares", "miss_block"),
            ]
        }
    }
}
