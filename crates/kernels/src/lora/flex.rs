//! The way forward on the CPU: block by block of rows, added in place.
#![allow(unsafe_code, reason = "blocks write their own rows of one output")]

use std::ops::Range;

use burn::tensor::Shape;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::block::{Scratch, View, Wide, dropped, narrow, padded, transposed};
use super::frozen::Frozen;
use super::fused;
use super::plan::{Plan, Segment};
use crate::alone::is_alone;
use crate::cpu::{Kept, Rows, Shared, tensor};
use crate::simd::{Kernel, Simd, dispatch, dot_rows};

/// Rows of a block up to which the factors are read where they lie.
const FEW: usize = 4;

/// Multiplications from which a pass is worth waking the other threads.
pub(super) const PARALLEL: usize = 64 * 64 * 64;

/// Inputs and factors; those of several adapters lie below and beside each other.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    pub(super) x: Rows,
    pub(super) a: Rows,
    pub(super) b: Rows,
    /// The factors of each adapter, where they lie apart; the first ones are `a` and `b` then.
    apart: Vec<[Rows; 2]>,
}

/// [`Inputs`] between the way forward and the way back.
#[derive(Debug, Clone)]
pub(super) struct KeptInputs {
    x: Option<Kept>,
    a: Rows,
    b: Rows,
}

impl KeptInputs {
    /// The inputs again; x without rows if it was not kept.
    pub(super) fn restored(self) -> Inputs {
        let Self { x, a, b } = self;
        let x = match x {
            Some(x) => x.rows(),
            None => Rows::new(tensor(Vec::new(), Shape::from([0, a.width()]))),
        };
        Inputs {
            x,
            a,
            b,
            apart: Vec::new(),
        }
    }
}

impl Inputs {
    pub(super) fn new(x: FlexTensor, a: FlexTensor, b: FlexTensor) -> Self {
        Self {
            x: Rows::new(x),
            a: Rows::new(a),
            b: Rows::new(b),
            apart: Vec::new(),
        }
    }

    /// Factors that stay where they are, for a pass without a way back; nothing without adapters.
    pub(super) fn apart(x: FlexTensor, factors: Vec<[FlexTensor; 2]>) -> Option<Self> {
        let apart: Vec<[Rows; 2]> = factors
            .into_iter()
            .map(|pair| pair.map(Rows::new))
            .collect();
        let [a, b] = apart.first()?.clone();
        Some(Self {
            x: Rows::new(x),
            a,
            b,
            apart,
        })
    }

    /// What the way back needs; x only for the gradient of `A`.
    pub(super) fn kept(self, x: bool) -> KeptInputs {
        KeptInputs {
            x: x.then(|| Kept::new(self.x.tensor().clone())),
            a: self.a,
            b: self.b,
        }
    }

    pub(super) fn d_in(&self) -> usize {
        self.a.width()
    }

    pub(super) fn d_out(&self) -> usize {
        self.b.rows()
    }

    /// The rows of `A` of one adapter.
    pub(super) fn a(&self, segment: &Segment) -> View<'_> {
        if let Some([a, _]) = self.apart.get(segment.index) {
            return view(a);
        }
        view(&self.a).skip_rows(segment.ranks.start)
    }

    /// The columns of `B` of one adapter.
    pub(super) fn b(&self, segment: &Segment) -> View<'_> {
        if let Some([_, b]) = self.apart.get(segment.index) {
            return view(b);
        }
        let all = view(&self.b);
        View {
            values: &all.values[segment.ranks.start.min(all.values.len())..],
            ..all
        }
    }
}

pub(super) fn view(rows: &Rows) -> View<'_> {
    View {
        values: rows.data(),
        stride: rows.stride(),
    }
}

/// The tensor as dense rows of f32 that nobody else holds.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    let dense = layout.start_offset() == 0 && tensor.is_contiguous();
    let whole = layout.num_elements() == tensor.storage::<f32>().len();
    if dense && whole {
        return tensor;
    }
    let rows = Rows::new(tensor);
    let shape = Shape::from([rows.rows(), rows.width()]);
    let values = view(&rows);
    let copy = (0..rows.rows()).flat_map(|row| values.row(row, rows.width()).iter().copied());
    self::tensor(copy.collect(), shape)
}

/// The factors of one adapter as the right operands of products.
struct Packed {
    /// `Aᵀ`, rows padded.
    a: Vec<f32>,
    /// `Bᵀ`.
    b: Vec<f32>,
}

/// A frozen layer's output with the adapters added; the rest as [`add`].
pub(super) fn on_frozen(
    inputs: &Inputs,
    base: &Frozen,
    plan: &Plan,
    keep: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    if fused::suits(&inputs.x, base, plan) {
        return fused::forward(inputs, base, &plan.segments[0], keep);
    }
    let y = base.forward(inputs.x.tensor().clone());
    add(inputs, y, plan, keep)
}

/// `y` with the adapters added, and `dropout(x)·Aᵀ` if it is to be kept: rows of the largest rank.
pub(super) fn add(
    inputs: &Inputs,
    y: FlexTensor,
    plan: &Plan,
    keep: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    let (rows, d_in, d_out) = (inputs.x.rows(), inputs.d_in(), inputs.d_out());
    let mut y = owned(y);
    let rank = plan.rank();
    let mut kept = vec![0.0; if keep { rows * rank } else { 0 }];
    let values = y.storage_mut::<f32>();
    assert!(values.len() == rows * d_out && inputs.x.width() == d_in);
    let (out, h_out) = (Shared(values.as_mut_ptr()), Shared(kept.as_mut_ptr()));
    let packed: Vec<Option<Packed>> = plan.segments.iter().map(|s| pack(inputs, s)).collect();
    let blocks: Vec<(usize, &Range<usize>)> = plan
        .segments
        .iter()
        .enumerate()
        .flat_map(|(index, segment)| segment.blocks.iter().map(move |block| (index, block)))
        .collect();
    let run = |scratch: &mut Scratch, (index, block): (usize, &Range<usize>)| {
        let segment = &plan.segments[index];
        let (r, width) = (segment.ranks.len(), padded(segment.ranks.len()));
        let x = dropped(
            view(&inputs.x),
            block,
            d_in,
            segment.mask,
            &mut scratch.rows,
        );
        let few = Few {
            x,
            h: &mut scratch.h,
            width,
            rows: block.len(),
            r,
            inner: d_in,
        };
        match &packed[index] {
            Some(packed) => narrow(x, (block.len(), d_in, width), &packed.a, &mut scratch.h),
            None => few.run(inputs.a(segment)),
        }
        for (row, h) in block.clone().zip(scratch.h.chunks_exact_mut(width)) {
            if keep {
                // SAFETY: the row's place, which this block alone writes.
                unsafe { std::ptr::copy_nonoverlapping(h.as_ptr(), h_out.at(row * rank), r) };
            }
            h.iter_mut().for_each(|h| *h *= segment.scaling);
        }
        // SAFETY: the rows of the block lie in the output, and no two blocks have rows in common.
        unsafe {
            let out = out.at(block.start * d_out);
            let h = std::mem::take(&mut scratch.h);
            match &packed[index] {
                Some(packed) => Wide {
                    shape: (block.len(), d_out, r),
                    left: &h,
                    left_strides: [width, 1],
                    right: View {
                        values: &packed.b,
                        stride: d_out,
                    },
                    out,
                    stride: d_out,
                    add: true,
                }
                .run(scratch.edge()),
                None => {
                    let rows = std::slice::from_raw_parts_mut(out, block.len() * d_out);
                    add_few(inputs.b(segment), &h, (width, r), (rows, d_out));
                }
            }
            scratch.h = h;
        }
    };
    let work = rows * rank * (d_in + d_out);
    if blocks.len() <= 1 || work < PARALLEL {
        let mut scratch = Scratch::default();
        blocks
            .into_iter()
            .for_each(|block| run(&mut scratch, block));
    } else {
        let tasks = blocks.into_par_iter();
        tasks.for_each_init(Scratch::default, run);
    }
    let kept = keep.then(|| tensor(kept, Shape::from([rows, rank])));
    (y, kept)
}

/// The factors as right operands, unless all blocks are small or every row stands alone.
fn pack(inputs: &Inputs, segment: &Segment) -> Option<Packed> {
    if is_alone() {
        return None;
    }
    let r = segment.ranks.len();
    let many = segment.blocks.iter().any(|block| block.len() > FEW);
    many.then(|| Packed {
        a: transposed(inputs.a(segment), r, inputs.d_in(), padded(r)),
        b: transposed(inputs.b(segment), inputs.d_out(), r, inputs.d_out()),
    })
}

/// `h = x·Aᵀ` for few rows.
struct Few<'a> {
    x: View<'a>,
    h: &'a mut Vec<f32>,
    width: usize,
    rows: usize,
    r: usize,
    inner: usize,
}

impl Few<'_> {
    fn run(self, a: View<'_>) {
        self.h.clear();
        self.h.resize(self.rows * self.width, 0.0);
        for row in 0..self.rows {
            let x = self.x.row(row, self.inner);
            let h = &mut self.h[row * self.width..][..self.r];
            dispatch(Dots {
                w: a,
                x,
                out: h,
                add: false,
            });
        }
    }
}

/// `y += h·Bᵀ` for few rows.
fn add_few(b: View<'_>, h: &[f32], (width, r): (usize, usize), (y, d_out): (&mut [f32], usize)) {
    for (h, y) in h.chunks_exact(width.max(1)).zip(y.chunks_exact_mut(d_out)) {
        dispatch(Dots {
            w: b,
            x: &h[..r],
            out: y,
            add: true,
        });
    }
}

/// `out[i] (+)= w[i] · x`.
struct Dots<'a> {
    w: View<'a>,
    x: &'a [f32],
    out: &'a mut [f32],
    add: bool,
}

impl Kernel for Dots<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// Rows met in one go.
        const R: usize = 8;
        let k = self.x.len();
        let (x, ahead) = (self.x.as_ptr(), R * self.w.stride);
        for (index, out) in self.out.chunks_mut(R).enumerate() {
            let from = |i: usize| self.w.row(index * R + i, k).as_ptr();
            let mut sums = [0.0; R];
            // SAFETY: every pointer comes from a slice of `k` values.
            unsafe {
                if out.len() == R {
                    let w = std::array::from_fn(from);
                    let found = dot_rows::<S, f32, R, 1>(s, w, [x], k, ahead);
                    sums = found.map(|[sum]| sum);
                } else {
                    for (i, sum) in sums.iter_mut().enumerate().take(out.len()) {
                        *sum = dot_rows::<S, f32, 1, 1>(s, [from(i)], [x], k, 0)[0][0];
                    }
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if self.add { *out + sum } else { sum };
            }
        }
    }
}
