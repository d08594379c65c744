//! From a quantized weight to stored parts.

use std::borrow::Cow;

use safetensors::Dtype;

use super::error::BnbLayoutError;
use super::state::to_json;
use super::{ABSMAX, BnbPart, NESTED_ABSMAX, NESTED_QUANT_MAP, QUANT_MAP, part_name, state_part};
use crate::error::Result;
use crate::map8::Map8;
use crate::scales::Scales;
use crate::tensor::QuantTensor;

/// The parts that store `tensor` as the weight named `weight`, in the order of bitsandbytes.
///
/// # Errors
/// [`Error::BnbLayout`](crate::Error::BnbLayout) for kinds other than NF4 and FP4.
pub fn write<'a>(weight: &str, tensor: &'a QuantTensor) -> Result<Vec<(String, BnbPart<'a>)>> {
    let kind = tensor.kind();
    let Some(codebook) = kind.codebook() else {
        return Err(BnbLayoutError::UnsupportedKind { kind }.of(weight));
    };
    let codes = bytes_part(tensor.codes(), vec![tensor.codes().len(), 1]);
    let mut parts = vec![(weight.to_owned(), codes)];
    let mut push = |name: &str, part| parts.push((part_name(weight, name), part));
    match tensor.scales() {
        Scales::Absmax(absmax) => {
            push(ABSMAX, f32_part(absmax));
            push(QUANT_MAP, f32_part(codebook.values()));
        }
        Scales::Nested(nested) => {
            let codes = nested.codes().codes();
            push(ABSMAX, bytes_part(codes, vec![codes.len()]));
            push(QUANT_MAP, f32_part(codebook.values()));
            push(NESTED_ABSMAX, f32_part(nested.codes().absmax()));
            push(NESTED_QUANT_MAP, f32_part(Map8::dynamic_signed().values()));
        }
    }
    let json = to_json(tensor).into_bytes();
    push(
        &state_part(kind),
        BnbPart {
            dtype: Dtype::U8,
            shape: vec![json.len()],
            bytes: Cow::Owned(json),
        },
    );
    Ok(parts)
}

fn bytes_part(bytes: &[u8], shape: Vec<usize>) -> BnbPart<'_> {
    BnbPart {
        dtype: Dtype::U8,
        shape,
        bytes: Cow::Borrowed(bytes),
    }
}

fn f32_part(numbers: &[f32]) -> BnbPart<'static> {
    BnbPart {
        dtype: Dtype::F32,
        shape: vec![numbers.len()],
        bytes: Cow::Owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
    }
}
