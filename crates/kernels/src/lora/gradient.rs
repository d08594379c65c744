//! The way back on the CPU: all gradients in one pass over the rows.
#![allow(unsafe_code, reason = "blocks write their own rows of one output")]

use std::ops::Range;

use burn::tensor::Shape;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::block::{Scratch, View, Wide, dropped, narrow, padded, transposed};
use super::flex::{Inputs, PARALLEL, owned, view};
use super::plan::{BLOCK, Plan, Segment};
use crate::cpu::{Rows, Shared, tensor};

/// What there is to differentiate.
#[derive(Debug)]
pub(super) struct Problem<'a> {
    pub(super) inputs: Inputs,
    /// `dropout(x)·Aᵀ`, if the gradient of `B` is wanted.
    pub(super) h: Option<Rows>,
    pub(super) plan: &'a Plan,
    /// Whether that of `A` is.
    pub(super) wants_a: bool,
    /// `s·dy·B`, `[rows, r]`, if it is known, of a single adapter on all rows.
    pub(super) dh: Option<Vec<f32>>,
}

/// The gradients of x, A and B, those that were wanted.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) x: Option<FlexTensor>,
    pub(super) a: Option<FlexTensor>,
    pub(super) b: Option<FlexTensor>,
}

/// A group's shares of the gradients of its adapter: `dA`, and `dB` transposed.
#[derive(Debug, Default)]
struct Share {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Problem<'_> {
    /// All gradients; that of x is added to `dx`, if it is wanted.
    pub(super) fn run(&self, dy: FlexTensor, dx: Option<FlexTensor>) -> Found {
        let dy = Rows::new(dy);
        let (d_in, d_out) = (self.inputs.d_in(), self.inputs.d_out());
        let mut dx = dx.map(owned);
        let out = dx.as_mut().map(|dx| {
            let values = dx.storage_mut::<f32>();
            assert_eq!(values.len(), dy.rows() * d_in);
            Shared(values.as_mut_ptr())
        });
        let segments = &self.plan.segments;
        // B with rows of padded ranks.
        let right: Vec<Vec<f32>> = segments.iter().map(|s| self.padded_b(s)).collect();
        let groups: Vec<(usize, &[Range<usize>])> = segments
            .iter()
            .enumerate()
            .flat_map(|(index, s)| s.groups().into_iter().map(move |group| (index, group)))
            .collect();
        let run = |scratch: &mut Scratch, (index, group): (usize, &[Range<usize>])| {
            let segment = &segments[index];
            let r = segment.ranks.len();
            let made = |wanted: bool, len: usize| vec![0.0; if wanted { len } else { 0 }];
            let mut share = Share {
                a: made(self.wants_a, r * d_in),
                b: made(self.h.is_some(), r * d_out),
            };
            for block in group {
                self.block(&dy, segment, &right[index], block, out, &mut share, scratch);
            }
            share
        };
        let work = dy.rows() * self.plan.rank() * (d_in + d_out);
        let shares: Vec<Share> = if groups.len() <= 1 || work < PARALLEL {
            let mut scratch = Scratch::default();
            let groups = groups.iter();
            groups.map(|&group| run(&mut scratch, group)).collect()
        } else {
            let groups = groups.par_iter();
            groups
                .map_init(Scratch::default, |scratch, &group| run(scratch, group))
                .collect()
        };
        let of = |index: usize| {
            let pairs = groups.iter().zip(&shares);
            pairs
                .filter(move |(group, _)| group.0 == index)
                .map(|(_, share)| share)
        };
        Found {
            x: dx,
            a: self.wants_a.then(|| {
                let sums = (0..segments.len()).flat_map(|index| {
                    total(
                        of(index).map(|share| &share.a[..]),
                        segments[index].ranks.len() * d_in,
                    )
                });
                let ranks = self.inputs.a.rows();
                tensor(sums.collect(), Shape::from([ranks, d_in]))
            }),
            b: self.h.is_some().then(|| {
                let sums: Vec<f32> = (0..segments.len())
                    .flat_map(|index| {
                        total(
                            of(index).map(|share| &share.b[..]),
                            segments[index].ranks.len() * d_out,
                        )
                    })
                    .collect();
                let ranks = self.inputs.b.width();
                let view = View {
                    values: &sums,
                    stride: d_out,
                };
                tensor(
                    transposed(view, ranks, d_out, ranks),
                    Shape::from([d_out, ranks]),
                )
            }),
        }
    }

    fn padded_b(&self, segment: &Segment) -> Vec<f32> {
        let (r, width, d_out) = (
            segment.ranks.len(),
            padded(segment.ranks.len()),
            self.inputs.d_out(),
        );
        let b = self.inputs.b(segment);
        let mut rows = vec![0.0; d_out * width];
        for (index, row) in rows.chunks_exact_mut(width.max(1)).enumerate() {
            row[..r].copy_from_slice(b.row(index, r));
        }
        rows
    }

    /// Adds a block's shares.
    #[expect(clippy::too_many_arguments, reason = "the parts of one step")]
    fn block(
        &self,
        dy: &Rows,
        segment: &Segment,
        b: &[f32],
        block: &Range<usize>,
        dx: Option<Shared>,
        share: &mut Share,
        scratch: &mut Scratch,
    ) {
        let (rows, d_in, d_out) = (block.len(), self.inputs.d_in(), self.inputs.d_out());
        let (r, width) = (segment.ranks.len(), padded(segment.ranks.len()));
        let dy = view(dy).skip_rows(block.start);
        if let Some(h) = &self.h {
            scratch.h.clear();
            for row in block.clone() {
                let h = view(h).row(row, r).iter();
                scratch.h.extend(h.map(|h| h * segment.scaling));
            }
            let h = std::mem::take(&mut scratch.h);
            let wide = Wide {
                shape: (r, d_out, rows),
                left: &h,
                left_strides: [1, r],
                right: dy,
                out: share.b.as_mut_ptr(),
                stride: d_out,
                add: true,
            };
            // SAFETY: the share has `r` rows of `d_out`.
            unsafe { wide.run(scratch.edge()) };
            scratch.h = h;
        }
        if !self.wants_a && dx.is_none() {
            return;
        }
        let mut room = std::mem::take(&mut scratch.dh);
        let (dh, width) = match &self.dh {
            Some(dh) => (&dh[block.start * r..block.end * r], r),
            None => {
                narrow(dy, (rows, d_out, width), b, &mut room);
                room.iter_mut().for_each(|dh| *dh *= segment.scaling);
                (&room[..], width)
            }
        };
        let mut copy = std::mem::take(&mut scratch.rows);
        if self.wants_a {
            let wide = Wide {
                shape: (r, d_in, rows),
                left: dh,
                left_strides: [1, width],
                right: dropped(view(&self.inputs.x), block, d_in, segment.mask, &mut copy),
                out: share.a.as_mut_ptr(),
                stride: d_in,
                add: true,
            };
            // SAFETY: the share has `r` rows of `d_in`.
            unsafe { wide.run(scratch.edge()) };
        }
        if let Some(dx) = dx {
            let update = |out, add| Wide {
                shape: (rows, d_in, r),
                left: dh,
                left_strides: [width, 1],
                right: self.inputs.a(segment),
                out,
                stride: d_in,
                add,
            };
            // SAFETY: the rows of the block lie in the gradient, and no two blocks have rows in
            // common; the copy has as many.
            unsafe {
                let dx = dx.at(block.start * d_in);
                match segment.mask {
                    None => update(dx, true).run(scratch.edge()),
                    Some(mask) => {
                        copy.resize(BLOCK * d_in, 0.0);
                        update(copy.as_mut_ptr(), false).run(scratch.edge());
                        let dx = std::slice::from_raw_parts_mut(dx, rows * d_in);
                        let parts = copy.chunks_exact_mut(d_in).zip(dx.chunks_exact_mut(d_in));
                        for (row, (part, dx)) in block.clone().zip(parts) {
                            mask.apply(row, part);
                            dx.iter_mut().zip(part).for_each(|(dx, part)| *dx += *part);
                        }
                    }
                }
            }
        }
        (scratch.dh, scratch.rows) = (room, copy);
    }
}

/// The sum of the groups' shares, in their order.
fn total<'a>(shares: impl Iterator<Item = &'a [f32]>, len: usize) -> Vec<f32> {
    let mut sum = vec![0.0; len];
    for share in shares {
        sum.iter_mut()
            .zip(share)
            .for_each(|(sum, share)| *sum += share);
    }
    sum
}
