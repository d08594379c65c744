//! Which tensors store a weight, and where their bytes come from.

use safetensors::Dtype;

use super::error::BnbLayoutError;
use super::state::to_json;
use super::{
    ABSMAX, NESTED_ABSMAX, NESTED_QUANT_MAP, QUANT_MAP, ROW_SCALES, WEIGHT_FORMAT, part_name,
    sibling_name, state_part,
};
use crate::config::{QuantKind, WeightDtype};
use crate::error::Result;
use crate::map8::Map8;

/// What is to be known of a weight before its codes and scales are at hand.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    pub(crate) kind: QuantKind,
    pub(crate) block_size: usize,
    pub(crate) dtype: WeightDtype,
    pub(crate) shape: &'a [usize],
    /// Block size and offset of the second level, with double quantization.
    pub(crate) nested: Option<(usize, f32)>,
}

/// A tensor to be stored.
#[derive(Debug)]
pub(crate) struct PlannedPart {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: PartBytes,
}

/// Where the bytes of a stored tensor come from.
#[derive(Debug)]
pub(crate) enum PartBytes {
    /// The codes of the weight.
    Codes,
    /// The scales of blocks or rows: numbers, or codes with double quantization.
    Scales,
    /// The scales of scales.
    OuterScales,
    /// From here.
    Given(Vec<u8>),
}

/// The tensors that store a weight named `weight`, in the order of bitsandbytes.
pub(crate) fn plan(weight: &str, header: &Header<'_>) -> Result<Vec<PlannedPart>> {
    match header.kind {
        QuantKind::Nf4 | QuantKind::Fp4 => Ok(four_bit(weight, header)),
        QuantKind::Int8Vectorwise => rows(weight, header),
        QuantKind::Int8 => Err(BnbLayoutError::UnsupportedKind { kind: header.kind }.of(weight)),
    }
}

fn four_bit(weight: &str, header: &Header<'_>) -> Vec<PlannedPart> {
    // A shape that a weight has was checked when the weight was made.
    let numel: usize = header.shape.iter().product();
    let n_blocks = numel.div_ceil(header.block_size);
    let codebook = header.kind.codebook().map(|codebook| codebook.values());
    let mut parts = Vec::new();
    let mut push = |name: String, dtype, shape, bytes| {
        parts.push(PlannedPart {
            name,
            dtype,
            shape,
            bytes,
        });
    };
    let of = |part: &str| part_name(weight, part);
    let code_bytes = header.kind.code_bytes(numel);
    push(
        weight.to_owned(),
        Dtype::U8,
        vec![code_bytes, 1],
        PartBytes::Codes,
    );
    let scale_dtype = match header.nested {
        Some(_) => Dtype::U8,
        None => Dtype::F32,
    };
    push(of(ABSMAX), scale_dtype, vec![n_blocks], PartBytes::Scales);
    push(
        of(QUANT_MAP),
        Dtype::F32,
        vec![16],
        given(codebook.into_iter().flatten()),
    );
    if let Some((block_size, _)) = header.nested {
        let outer = n_blocks.div_ceil(block_size);
        push(
            of(NESTED_ABSMAX),
            Dtype::F32,
            vec![outer],
            PartBytes::OuterScales,
        );
        let map = given(Map8::dynamic_signed().values());
        push(of(NESTED_QUANT_MAP), Dtype::F32, vec![256], map);
    }
    let json = to_json(header).into_bytes();
    let (state, len) = (of(&state_part(header.kind)), json.len());
    push(state, Dtype::U8, vec![len], PartBytes::Given(json));
    parts
}

fn rows(weight: &str, header: &Header<'_>) -> Result<Vec<PlannedPart>> {
    let &[d_out, _] = header.shape else {
        let shape = header.shape.to_vec();
        return Err(BnbLayoutError::RowsOfNoMatrix { shape }.of(weight));
    };
    let sibling = |part: &str| {
        sibling_name(weight, part).ok_or_else(|| BnbLayoutError::WeightName.of(weight))
    };
    Ok(vec![
        PlannedPart {
            name: weight.to_owned(),
            dtype: Dtype::I8,
            shape: header.shape.to_vec(),
            bytes: PartBytes::Codes,
        },
        PlannedPart {
            name: sibling(ROW_SCALES)?,
            dtype: Dtype::F32,
            shape: vec![d_out],
            bytes: PartBytes::Scales,
        },
        PlannedPart {
            name: sibling(WEIGHT_FORMAT)?,
            dtype: Dtype::U8,
            shape: Vec::new(),
            bytes: PartBytes::Given(vec![0]),
        },
    ])
}

fn given<'a>(numbers: impl IntoIterator<Item = &'a f32>) -> PartBytes {
    PartBytes::Given(numbers.into_iter().flat_map(|x| x.to_le_bytes()).collect())
}
