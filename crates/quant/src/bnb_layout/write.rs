//! From a quantized weight to stored parts.

use std::borrow::Cow;

use super::BnbPart;
use super::plan::{Header, PartBytes, plan};
use crate::error::Result;
use crate::scales::Scales;
use crate::tensor::QuantTensor;

/// The parts that store `tensor` as the weight named `weight`, in the order of bitsandbytes.
///
/// NF4 and FP4 become 4-bit parts, int8 rows the three tensors of a `Linear8bitLt`.
///
/// # Errors
/// [`Error::BnbLayout`](crate::Error::BnbLayout) for block-wise int8, and for int8 rows that are
/// not of a matrix or whose name does not end in `weight`.
pub fn write<'a>(weight: &str, tensor: &'a QuantTensor) -> Result<Vec<(String, BnbPart<'a>)>> {
    let nested = match tensor.scales() {
        Scales::Absmax(_) => None,
        Scales::Nested(nested) => Some((nested.codes().block_size(), nested.offset())),
    };
    let header = Header {
        kind: tensor.kind(),
        block_size: tensor.block_size(),
        dtype: tensor.dtype(),
        shape: tensor.shape(),
        nested,
    };
    let parts = plan(weight, &header)?.into_iter().map(|part| {
        let stored = BnbPart {
            dtype: part.dtype,
            shape: part.shape,
            bytes: bytes(tensor, part.bytes),
        };
        (part.name, stored)
    });
    Ok(parts.collect())
}

fn bytes(tensor: &QuantTensor, bytes: PartBytes) -> Cow<'_, [u8]> {
    match (bytes, tensor.scales()) {
        (PartBytes::Given(bytes), _) => Cow::Owned(bytes),
        (PartBytes::Codes, _) => Cow::Borrowed(tensor.codes()),
        (PartBytes::Scales, Scales::Absmax(absmax)) => f32_bytes(absmax),
        (PartBytes::Scales, Scales::Nested(nested)) => Cow::Borrowed(nested.codes().codes()),
        (PartBytes::OuterScales, scales) => match scales {
            Scales::Nested(nested) => f32_bytes(nested.codes().absmax()),
            // Plain scales have no second level, and the plan asks for none.
            Scales::Absmax(_) => Cow::Borrowed(&[]),
        },
    }
}

fn f32_bytes(numbers: &[f32]) -> Cow<'static, [u8]> {
    Cow::Owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
}
