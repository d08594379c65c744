//! A packed weight in the memory of this process.
#![allow(unsafe_code, reason = "sees words as bytes")]

use burn::tensor::{Int, Tensor};
use burn_flex::{Flex, FlexTensor};

use super::weight::{CodeFormat, PackedScales, PackedWeight};
use crate::precision::Precision;

/// The parts of a [`PackedWeight`] on the Flex backend: handles, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Native {
    codes: FlexTensor,
    codebook: Option<FlexTensor>,
    scales: NativeScales,
    shape: [usize; 2],
    block_size: usize,
}

#[allow(clippy::large_enum_variant, reason = "there is one of it in a weight")]
#[derive(Debug, Clone)]
enum NativeScales {
    Absmax(FlexTensor),
    Nested {
        codes: FlexTensor,
        map: FlexTensor,
        absmax: FlexTensor,
        offset: f32,
        block_size: usize,
    },
}

impl Native {
    /// The weight, if all of it lives on Flex and a word's first byte is its lowest here.
    pub(super) fn of(weight: &PackedWeight) -> Option<Self> {
        if cfg!(target_endian = "big") {
            return None;
        }
        let codebook = match weight.format() {
            CodeFormat::FourBit { codebook } => Some(float(codebook)?),
            CodeFormat::Int8 => None,
        };
        let scales = match weight.scales() {
            PackedScales::Absmax(absmax) => NativeScales::Absmax(float(absmax)?),
            PackedScales::Nested {
                codes,
                map,
                absmax,
                offset,
                block_size,
            } => NativeScales::Nested {
                codes: int(codes)?,
                map: float(map)?,
                absmax: float(absmax)?,
                offset: *offset,
                block_size: *block_size,
            },
        };
        Some(Self {
            codes: int(weight.codes())?,
            codebook,
            scales,
            shape: weight.shape(),
            block_size: weight.block_size(),
        })
    }

    /// The weight as slices, its numbers rounded as `precision` says.
    pub(super) fn view(&self, precision: Precision) -> View<'_> {
        let scales = match &self.scales {
            NativeScales::Absmax(absmax) => Scales::Absmax(numbers(absmax)),
            NativeScales::Nested {
                codes,
                map,
                absmax,
                offset,
                block_size,
            } => Scales::Nested {
                codes: bytes(codes),
                map: table(map),
                absmax: numbers(absmax),
                offset: *offset,
                block_size: *block_size,
            },
        };
        View {
            codes: bytes(&self.codes),
            codebook: self.codebook.as_ref().map(|codebook| *table(codebook)),
            scales,
            shape: self.shape,
            block_size: self.block_size,
            rounded: precision == Precision::Bf16,
        }
    }
}

/// A packed weight as slices.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) codes: &'a [u8],
    /// What four-bit codes stand for; without it, codes are signed bytes.
    pub(super) codebook: Option<[f32; 16]>,
    pub(super) scales: Scales<'a>,
    pub(super) shape: [usize; 2],
    pub(super) block_size: usize,
    /// Whether numbers are rounded to bf16.
    pub(super) rounded: bool,
}

/// The scales of a [`View`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Scales<'a> {
    Absmax(&'a [f32]),
    Nested {
        codes: &'a [u8],
        map: &'a [f32; 256],
        absmax: &'a [f32],
        offset: f32,
        block_size: usize,
    },
}

impl Scales<'_> {
    /// The scales of the blocks from `first` on.
    pub(super) fn read(&self, first: usize, out: &mut [f32]) {
        match *self {
            Self::Absmax(absmax) => out.copy_from_slice(&absmax[first..][..out.len()]),
            Self::Nested {
                codes,
                map,
                absmax,
                offset,
                block_size,
            } => {
                let mut codes = &codes[first..];
                let (mut out, mut left) = (out, block_size - first % block_size);
                for absmax in &absmax[first / block_size..] {
                    let len = left.min(out.len());
                    let (scales, rest) = out.split_at_mut(len);
                    for (scale, &code) in scales.iter_mut().zip(codes) {
                        *scale = map[usize::from(code)] * absmax + offset;
                    }
                    (out, codes, left) = (rest, &codes[len..], block_size);
                    if out.is_empty() {
                        break;
                    }
                }
            }
        }
    }
}

fn float(tensor: &Tensor<1>) -> Option<FlexTensor> {
    let tensor = tensor.clone().without_autodiff();
    let tensor = tensor.try_into_primitive::<Flex>().ok()?;
    Some(tensor.to_contiguous())
}

fn int(tensor: &Tensor<1, Int>) -> Option<FlexTensor> {
    let tensor = tensor.clone().without_autodiff();
    let tensor = tensor.try_into_primitive::<Flex>().ok()?;
    Some(tensor.to_contiguous())
}

/// The elements of a contiguous tensor.
fn numbers(tensor: &FlexTensor) -> &[f32] {
    let layout = tensor.layout();
    &tensor.storage()[layout.start_offset()..][..layout.num_elements()]
}

/// The elements of a contiguous tensor of `N`, which [`PackedWeight`] made sure of.
fn table<const N: usize>(tensor: &FlexTensor) -> &[f32; N] {
    let (tables, _) = numbers(tensor).as_chunks();
    &tables[0]
}

/// The bytes of a contiguous tensor of words.
fn bytes(tensor: &FlexTensor) -> &[u8] {
    let layout = tensor.layout();
    let words = &tensor.storage::<u32>()[layout.start_offset()..][..layout.num_elements()];
    // SAFETY: any words are four times as many bytes, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}
