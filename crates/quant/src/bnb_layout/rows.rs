//! int8 weights with one scale for every row, as bitsandbytes' `Linear8bitLt` is stored.

use safetensors::Dtype;

use super::error::BnbLayoutError;
use super::read::{Parts, WEIGHT, check_dtype, missing};
use super::{BnbPart, ROW_SCALES, WEIGHT_FORMAT};
use crate::config::{QuantConfig, QuantKind, WeightDtype};
use crate::scales::Scales;

/// What [`QuantTensor::from_parts`](crate::QuantTensor::from_parts) takes.
type TensorParts = (QuantConfig, Vec<usize>, Vec<u8>, Scales);

impl<'a, L: FnMut(&str) -> Option<BnbPart<'a>>> Parts<'_, L> {
    /// Whether the weight is stored with scales of rows beside it.
    pub(super) fn has_rows(&mut self) -> bool {
        self.find_sibling(ROW_SCALES).is_some()
    }

    pub(super) fn read_rows(&mut self) -> Result<TensorParts, BnbLayoutError> {
        let (shape, part) = self.row_codes()?;
        let scales = self.find_sibling(ROW_SCALES);
        let scales = scales.ok_or_else(|| missing(ROW_SCALES))?;
        let scales = super::read::f32s(ROW_SCALES, &scales, shape[0])?;
        self.check_format()?;
        Ok((
            row_config(),
            shape.to_vec(),
            part.bytes.into_owned(),
            Scales::Absmax(scales),
        ))
    }

    /// The shape of the weight, and its codes.
    pub(super) fn row_codes(&mut self) -> Result<([usize; 2], BnbPart<'a>), BnbLayoutError> {
        let part = self.find_weight().ok_or_else(|| missing(WEIGHT))?;
        check_dtype(WEIGHT, &part, Dtype::I8, "I8")?;
        let &[d_out, d_in] = part.shape.as_slice() else {
            let shape = part.shape;
            return Err(BnbLayoutError::RowsOfNoMatrix { shape });
        };
        let expected = crate::tensor::numel(&part.shape).map_err(|_| {
            let shape = part.shape.clone();
            BnbLayoutError::StoredShape { shape }
        })?;
        if part.bytes.len() != expected {
            return Err(BnbLayoutError::Bytes {
                part: WEIGHT,
                expected,
                got: part.bytes.len(),
            });
        }
        Ok(([d_out, d_in], part))
    }

    /// Old checkpoints lack the format; the only one that was ever saved is 0, row after row.
    fn check_format(&mut self) -> Result<(), BnbLayoutError> {
        match self.find_sibling(WEIGHT_FORMAT) {
            Some(part) if !matches!(*part.bytes, [0]) => Err(BnbLayoutError::RowFormat {
                got: part.bytes.first().copied(),
            }),
            _ => Ok(()),
        }
    }
}

/// The files don't say what type the weight had; bitsandbytes computes such layers in f16.
pub(super) fn row_config() -> QuantConfig {
    QuantConfig {
        kind: QuantKind::Int8Vectorwise,
        block_size: 0,
        double_quant: false,
        dtype: WeightDtype::F16,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{describe, is_stored, read, write};
    use super::*;
    use crate::tensor::{QuantTensor, quantize};

    fn packed() -> QuantTensor {
        let numbers: Vec<f32> = (0..12).map(|i| (i as f32).sin()).collect();
        quantize(&numbers, &[3, 4], row_config()).unwrap()
    }

    fn parts(tensor: &QuantTensor) -> BTreeMap<String, BnbPart<'_>> {
        write("a.weight", tensor).unwrap().into_iter().collect()
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let packed = packed();
        let parts = parts(&packed);
        let names: Vec<&str> = parts.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.SCB", "a.weight", "a.weight_format"]);
        assert_eq!(parts["a.weight"].dtype, Dtype::I8);
        assert_eq!(parts["a.weight"].shape, [3, 4]);
        let again = read("a.weight", |name| parts.get(name).cloned()).unwrap();
        assert_eq!(again, packed);
        let described = describe("a.weight", |name| parts.get(name).cloned()).unwrap();
        assert_eq!(described.kind, QuantKind::Int8Vectorwise);
        assert_eq!(described.shape, [3, 4]);
        assert!(is_stored("a.weight", |name| parts.contains_key(name)));
        assert!(!is_stored("a.bias", |name| parts.contains_key(name)));
    }

    #[test]
    fn broken_rows_name_the_part() {
        type Change = fn(&mut BTreeMap<String, BnbPart<'_>>);
        let cases: [(Change, &str); 6] = [
            (
                |parts| parts.get_mut("a.weight").unwrap().dtype = Dtype::U8,
                "part `weight` must have dtype I8, got U8",
            ),
            (
                |parts| parts.get_mut("a.weight").unwrap().shape = vec![4, 4],
                "part `weight` must have 16 bytes, got 12",
            ),
            (
                |parts| parts.get_mut("a.weight").unwrap().shape = vec![12],
                "rows of int8 must be those of a matrix, got shape [12]",
            ),
            (
                |parts| parts.get_mut("a.weight").unwrap().shape = vec![usize::MAX, 2],
                "not overflow",
            ),
            (
                |parts| parts.get_mut("a.SCB").unwrap().shape = vec![4],
                "part `SCB` must have shape [3], got [4]",
            ),
            (
                |parts| parts.get_mut("a.weight_format").unwrap().bytes = vec![1].into(),
                "part `weight_format` must be 0, row after row, got Some(1)",
            ),
        ];
        let packed = packed();
        for (change, expected) in cases {
            let mut parts = parts(&packed);
            change(&mut parts);
            let error = read("a.weight", |name| parts.get(name).cloned()).unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with("weight `a.weight`: "), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }
}
