//! Output buffers that threads fill in place.
#![allow(
    unsafe_code,
    reason = "buffers are filled before they are read, so nothing is zeroed first"
)]

use std::mem::MaybeUninit;
use std::ops::Range;

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use half::bf16;
use rayon::prelude::*;

/// Values that one task handles at least: below this, waking a thread costs more than it saves.
const TASK: usize = 16 * 1024;

/// An f32 tensor over `data`, row-major.
pub(crate) fn tensor(data: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(data),
        Layout::contiguous(shape),
        DType::F32,
    )
}

/// A bf16 tensor over `data`, row-major.
pub(crate) fn tensor_bf16(data: Vec<bf16>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(data),
        Layout::contiguous(shape),
        DType::BF16,
    )
}

/// Makes `N` buffers of `rows` rows of `width` values with `fill(rows, the buffers' parts for
/// them)`, on all threads when `rows·cost` is worth it; `cost` counts values read or written.
///
/// # Safety
/// `fill` must write every value of the parts it is given.
pub(crate) unsafe fn fill_rows<const N: usize, F>(
    rows: usize,
    width: usize,
    cost: usize,
    fill: F,
) -> [Vec<f32>; N]
where
    F: Fn(Range<usize>, [&mut [MaybeUninit<f32>]; N]) + Sync,
{
    let len = rows * width;
    let mut out: [Vec<f32>; N] = std::array::from_fn(|_| Vec::with_capacity(len));
    if len == 0 {
        return out;
    }
    let buffers = out.each_mut().map(|buffer| Shared(buffer.as_mut_ptr()));
    let per_task = TASK.div_ceil(cost.max(1)).max(1);
    let task = |rows: Range<usize>| {
        let parts = buffers.map(|buffer| {
            // SAFETY: the capacity covers all rows, and no two tasks have rows in common.
            unsafe {
                let first = buffer.at(rows.start * width).cast();
                std::slice::from_raw_parts_mut(first, rows.len() * width)
            }
        });
        fill(rows, parts);
    };
    if rows <= per_task {
        task(0..rows);
    } else {
        (0..rows.div_ceil(per_task))
            .into_par_iter()
            .for_each(|index| {
                let first = index * per_task;
                task(first..(first + per_task).min(rows));
            });
    }
    for buffer in &mut out {
        // SAFETY: the capacity is `len`, and `fill` wrote every row, by this function's contract.
        unsafe { buffer.set_len(len) };
    }
    out
}

/// A buffer that several threads write, each its own part.
#[derive(Debug)]
pub(crate) struct Shared<T = f32>(pub(crate) *mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: the pointer is only dereferenced in `unsafe` code that keeps the threads' parts apart.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The address of element `index`.
    ///
    /// # Safety
    /// `index` must not lie outside the buffer.
    pub(crate) unsafe fn at(self, index: usize) -> *mut T {
        // SAFETY: the caller vouches for `index`.
        unsafe { self.0.add(index) }
    }
}
