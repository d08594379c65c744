//! The running averages that an optimizer keeps for every number of a parameter.

use flametune_quant::Map8;

/// Numbers that share a scale in 8-bit averages.
pub const BLOCK_SIZE_8BIT: usize = 256;

/// Parameters with fewer numbers keep f32 averages under 8-bit optimizers.
///
/// # Source
/// - reference: bitsandbytes `optim/optimizer.py`, `min_8bit_size`
pub const MIN_8BIT_SIZE: usize = 4096;

/// One average per number of a parameter, in f32 or in eight bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Moments {
    /// As they are.
    F32(Vec<f32>),
    /// Codes of a dynamic map, with a scale for every [`BLOCK_SIZE_8BIT`] of them.
    Bits8 {
        /// A code per number.
        codes: Vec<u8>,
        /// A scale per block.
        absmax: Vec<f32>,
    },
}

impl Moments {
    /// Zeros for `len` numbers.
    pub fn zeros(len: usize, eight_bit: bool, map: &Map8) -> Self {
        if eight_bit {
            Self::Bits8 {
                codes: vec![map.encode(0.0); len],
                absmax: vec![0.0; len.div_ceil(BLOCK_SIZE_8BIT)],
            }
        } else {
            Self::F32(vec![0.0; len])
        }
    }

    /// The numbers that have an average.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bits8 { codes, .. } => codes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(values.as_slice()),
            Self::Bits8 { codes, absmax } => codes.len() + size_of_val(absmax.as_slice()),
        }
    }

    /// The averages of consecutive tasks of `task` numbers, a multiple of the block size.
    pub(super) fn tasks(&mut self, task: usize) -> Vec<Part<'_>> {
        match self {
            Self::F32(values) => values.chunks_mut(task).map(Part::F32).collect(),
            Self::Bits8 { codes, absmax } => codes
                .chunks_mut(task)
                .zip(absmax.chunks_mut(task / BLOCK_SIZE_8BIT))
                .map(|(codes, absmax)| Part::Bits8 { codes, absmax })
                .collect(),
        }
    }
}

/// The averages that one task updates.
pub(super) enum Part<'a> {
    F32(&'a mut [f32]),
    Bits8 {
        codes: &'a mut [u8],
        absmax: &'a mut [f32],
    },
}

impl Part<'_> {
    /// Gives `update` the averages of block `block`, and keeps what it makes of them.
    pub(super) fn update(&mut self, block: usize, map: &Map8, update: impl FnOnce(&mut [f32])) {
        let first = block * BLOCK_SIZE_8BIT;
        match self {
            Self::F32(values) => {
                let end = (first + BLOCK_SIZE_8BIT).min(values.len());
                update(&mut values[first..end]);
            }
            Self::Bits8 { codes, absmax } => {
                let end = (first + BLOCK_SIZE_8BIT).min(codes.len());
                let codes = &mut codes[first..end];
                let mut values = [0.0; BLOCK_SIZE_8BIT];
                let values = &mut values[..codes.len()];
                for (value, code) in values.iter_mut().zip(codes.iter()) {
                    *value = map.decode(*code) * absmax[block];
                }
                update(values);
                let largest = values
                    .iter()
                    .fold(0.0_f32, |largest, x| largest.max(x.abs()));
                absmax[block] = largest;
                let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
                for (value, code) in values.iter().zip(codes.iter_mut()) {
                    *code = map.encode(value * inverse);
                }
            }
        }
    }
}
