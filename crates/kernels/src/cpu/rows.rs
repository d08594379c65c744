use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::{bf16, f16};

use crate::simd::Element;

/// An element type of Flex's storage.
pub(crate) trait Stored: Element {
    /// The whole storage behind `tensor`, which must hold this type.
    fn storage(tensor: &FlexTensor) -> &[Self];
}

impl Stored for f32 {
    fn storage(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }
}

impl Stored for bf16 {
    fn storage(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }
}

impl Stored for f16 {
    fn storage(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }
}

/// A tensor seen as rows along its last dimension, a constant stride apart.
///
/// Views whose last dimension is dense and whose other dimensions collapse to one stride (slices
/// of columns, whole tensors, broadcast rows) are used in place; others are copied once.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    tensor: FlexTensor,
    rows: usize,
    width: usize,
    stride: usize,
}

impl Rows {
    /// Views `tensor`, of rank one or more.
    pub(crate) fn new(tensor: FlexTensor) -> Self {
        let (tensor, stride) = match collapsed_stride(&tensor) {
            Some(stride) => (tensor, stride),
            None => {
                let tensor = tensor.to_contiguous();
                let width = tensor
                    .layout()
                    .shape()
                    .as_slice()
                    .last()
                    .copied()
                    .unwrap_or(1);
                (tensor, width)
            }
        };
        let shape = tensor.layout().shape();
        let width = shape.as_slice().last().copied().unwrap_or(1);
        let rows = shape.num_elements().checked_div(width).unwrap_or(0);
        Self {
            tensor,
            rows,
            width,
            stride,
        }
    }

    /// The tensor that is seen.
    pub(crate) fn tensor(&self) -> &FlexTensor {
        &self.tensor
    }

    pub(crate) fn dtype(&self) -> DType {
        self.tensor.dtype()
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The distance between neighbouring rows, in elements.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The elements from the first row's start to the last row's end.
    pub(crate) fn data<E: Stored>(&self) -> &[E] {
        if self.rows == 0 {
            return &[];
        }
        let start = self.tensor.layout().start_offset();
        &E::storage(&self.tensor)[start..start + (self.rows - 1) * self.stride + self.width]
    }
}

/// The stride between rows, if one number describes it and the last dimension is dense.
fn collapsed_stride(tensor: &FlexTensor) -> Option<usize> {
    let layout = tensor.layout();
    let (&width, leading) = layout.shape().as_slice().split_last()?;
    let (&inner, strides) = layout.strides().split_last()?;
    if width > 1 && inner != 1 {
        return None;
    }
    // The innermost leading dimension longer than one sets the stride; the others must follow.
    let mut expected = None;
    let mut row_stride = width.cast_signed();
    for (&len, &stride) in leading
        .iter()
        .zip(strides)
        .rev()
        .filter(|(len, _)| **len != 1)
    {
        match expected {
            None => row_stride = stride,
            Some(expected) if expected == stride => {}
            Some(_) => return None,
        }
        expected = Some(stride.checked_mul(len.cast_signed())?);
    }
    usize::try_from(row_stride).ok()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};
    use burn_flex::Flex;

    use super::*;

    fn numbers(shape: [usize; 3]) -> Tensor<3> {
        let len = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn check(tensor: Tensor<3>, in_place: bool) {
        let expected = tensor.to_data().try_to_vec::<f32>().unwrap();
        let tensor = tensor.try_into_primitive::<Flex>().unwrap();
        assert_eq!(collapsed_stride(&tensor).is_some(), in_place);
        let rows = Rows::new(tensor);
        let data = rows.data::<f32>();
        let got: Vec<f32> = (0..rows.rows())
            .flat_map(|row| &data[row * rows.stride()..row * rows.stride() + rows.width()])
            .copied()
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn views_are_used_in_place_or_copied() {
        check(numbers([2, 3, 4]), true);
        check(numbers([2, 3, 4]).slice([0..2, 0..3, 1..3]), true);
        check(numbers([2, 3, 4]).slice([1..2, 1..3, 1..3]), true);
        check(numbers([2, 3, 4]).slice([0..2, 1..3, 1..3]), false);
        check(numbers([2, 3, 4]).swap_dims(1, 2), false);
        check(numbers([2, 3, 4]).swap_dims(0, 1), false);
        check(numbers([1, 1, 4]).expand([2, 3, 4]), true);
        check(numbers([2, 3, 1]), true);
    }
}
