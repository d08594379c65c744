//! The description of a tensor in a GGUF file.

use std::ops::Range;
use std::path::Path;

use super::cursor::{Cursor, Subject};
use super::tensor_type::GgmlType;
use crate::error::{Error, Result};

/// ggml's own limit.
const MAX_DIMENSIONS: u32 = 4;

/// What a GGUF file says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    name: String,
    kind: GgmlType,
    shape: Vec<usize>,
    elements: usize,
    bytes: usize,
    /// Offset within the data section.
    offset: u64,
}

impl GgufTensor {
    /// The fewest bytes of a description: an empty name, no dimensions, type and offset.
    pub(super) const MIN_BYTES: usize = 8 + 4 + 4 + 8;

    pub(super) fn read(cursor: &mut Cursor<'_>, index: usize) -> Result<Self> {
        cursor.set_subject(Subject::TensorName(index));
        let name = cursor.string()?;
        cursor.set_subject(Subject::Tensor(name));
        let file = cursor.file();

        let n_dims = cursor.u32()?;
        if n_dims > MAX_DIMENSIONS {
            return Err(Error::TooManyDimensions {
                file: file.to_owned(),
                tensor: name.to_owned(),
                got: n_dims,
                limit: MAX_DIMENSIONS,
            });
        }
        let dims = (0..n_dims)
            .map(|_| cursor.u64())
            .collect::<Result<Vec<_>>>()?;
        let code = cursor.u32()?;
        let offset = cursor.u64()?;
        let kind = GgmlType::from_code(code).ok_or_else(|| Error::UnknownTensorType {
            file: file.to_owned(),
            tensor: name.to_owned(),
            code,
        })?;
        Self::new(file, name, kind, dims, offset)
    }

    fn new(file: &Path, name: &str, kind: GgmlType, dims: Vec<u64>, offset: u64) -> Result<Self> {
        let sizes: Option<Vec<usize>> = dims
            .iter()
            .rev()
            .map(|&dim| usize::try_from(dim).ok())
            .collect();
        let counted = sizes.and_then(|shape| {
            let elements = shape
                .iter()
                .try_fold(1usize, |all, &dim| all.checked_mul(dim))?;
            // The values as f32 must be addressable too.
            elements.checked_mul(size_of::<f32>())?;
            Some((shape, elements))
        });
        let Some((shape, elements)) = counted else {
            return Err(Error::SizeOverflow {
                file: file.to_owned(),
                tensor: name.to_owned(),
                dims,
            });
        };

        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(kind.block_elements()) {
            return Err(Error::PartialBlock {
                file: file.to_owned(),
                tensor: name.to_owned(),
                kind,
                row,
                block: kind.block_elements(),
            });
        }
        let Some(bytes) = kind.bytes(elements) else {
            return Err(Error::SizeOverflow {
                file: file.to_owned(),
                tensor: name.to_owned(),
                dims,
            });
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
            shape,
            elements,
            bytes,
            offset,
        })
    }

    /// The name, such as `blk.0.attn_q.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the elements are stored.
    pub fn kind(&self) -> GgmlType {
        self.kind
    }

    /// The shape, outermost dimension first: the reverse of the order in the file.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The bytes the elements take in the file.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the tensor's bytes lie in a data section of `available` bytes.
    pub(super) fn range(
        &self,
        file: &Path,
        alignment: usize,
        available: usize,
    ) -> Result<Range<usize>> {
        if !self.offset.is_multiple_of(alignment as u64) {
            return Err(Error::UnalignedTensor {
                file: file.to_owned(),
                tensor: self.name.clone(),
                offset: self.offset,
                alignment,
            });
        }
        usize::try_from(self.offset)
            .ok()
            .and_then(|begin| Some(begin..begin.checked_add(self.bytes)?))
            .filter(|range| range.end <= available)
            .ok_or_else(|| Error::TensorOutOfFile {
                file: file.to_owned(),
                tensor: self.name.clone(),
                offset: self.offset,
                bytes: self.bytes,
                available,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(kind: GgmlType, dims: &[u64], offset: u64) -> Result<GgufTensor> {
        GgufTensor::new(Path::new("m.gguf"), "t", kind, dims.to_vec(), offset)
    }

    #[test]
    fn shape_is_the_reverse_of_the_dims() {
        let t = tensor(GgmlType::Q4_1, &[64, 3], 0).unwrap();
        assert_eq!(t.shape(), [3, 64]);
        assert_eq!((t.elements(), t.bytes()), (192, 6 * 20));
    }

    #[test]
    fn a_scalar_has_one_element() {
        let t = tensor(GgmlType::F32, &[], 0).unwrap();
        assert_eq!((t.elements(), t.bytes()), (1, 4));
    }

    #[test]
    fn sizes_must_be_addressable_and_whole() {
        assert_eq!(
            tensor(GgmlType::F32, &[1 << 40, 1 << 40], 0)
                .unwrap_err()
                .to_string(),
            "m.gguf: tensor `t` has dimensions [1099511627776, 1099511627776], whose size overflows"
        );
        assert!(matches!(
            tensor(GgmlType::Q4_0, &[1 << 62], 0),
            Err(Error::SizeOverflow { .. })
        ));
        assert_eq!(
            tensor(GgmlType::Q4_K, &[128, 2], 0)
                .unwrap_err()
                .to_string(),
            "m.gguf: tensor `t` has rows of 128 elements, Q4_K needs a multiple of 256"
        );
    }

    #[test]
    fn ranges_are_aligned_and_inside() {
        let file = Path::new("m.gguf");
        let t = tensor(GgmlType::F32, &[8], 32).unwrap();
        assert_eq!(t.range(file, 32, 64).unwrap(), 32..64);
        assert_eq!(
            t.range(file, 64, 64).unwrap_err().to_string(),
            "m.gguf: tensor `t` begins at offset 32, not a multiple of 64"
        );
        assert_eq!(
            t.range(file, 32, 63).unwrap_err().to_string(),
            "m.gguf: tensor `t` takes 32 bytes at offset 32 of the data section, which has 63"
        );
        let far = tensor(GgmlType::F32, &[8], u64::MAX - 31).unwrap();
        assert!(matches!(
            far.range(file, 32, 64),
            Err(Error::TensorOutOfFile { .. })
        ));
    }
}
