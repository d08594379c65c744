//! Blocks of queries against blocks of keys with a running softmax: the scores of a few queries
//! and one block of keys are all that is ever stored.
#![allow(
    unsafe_code,
    reason = "threads write separate rows of one output; products are raw"
)]

use std::marker::PhantomData;

use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::bf16;
use rayon::prelude::*;

use super::heads::{Heads, heads_inside};
use super::softmax::{Row, Running, shrink, soft_cap};
use super::visible::{Visible, visible};
use super::{Attention, decode, pack};
use crate::cpu::{Shared, Stored};
use crate::simd::{Kernel, Panels, Simd, Strided, dispatch, product};

/// Keys per block. Fixed, like all sizes here, so that results do not depend on the threads.
const KEYS: usize = 128;

/// Rows (queries of all heads of a group) per task, if there are as many.
const ROWS: usize = 192;

/// Rows whose scores are held at a time.
const STRIP: usize = 24;

/// The attention output in f32, of q, k and v all in f32 or all in bf16, and, for the backward pass, `ln Σ e^score` per query, in the order
/// `[batch, heads, q_len]`.
pub(super) fn forward(
    attention: &Attention,
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
) -> (FlexTensor, Vec<f32>) {
    let (q, k, v) = (Heads::new(q), Heads::new(k), Heads::new(v));
    let (y, log_sums) = run(attention, &q, &k, &v);
    let shape = [q.batch, q.heads, q.seq, q.head_dim];
    (heads_inside(y, shape), log_sums)
}

/// [`forward`] into memory in the order `[batch, q_len, heads, head_dim]`.
pub(super) fn run(attention: &Attention, q: &Heads, k: &Heads, v: &Heads) -> (Vec<f32>, Vec<f32>) {
    let call = Call::new(attention, q, k, v);
    let (batch, heads, q_len, head_dim) = (q.batch, q.heads, q.seq, q.head_dim);
    let mut y = vec![0.0; batch * q_len * heads * head_dim];
    let mut log_sums = vec![f32::INFINITY; batch * heads * q_len];
    let out = Output {
        y: Shared(y.as_mut_ptr()),
        log_sums: Shared(log_sums.as_mut_ptr()),
    };
    if k.seq > 0 && q_len > 0 && head_dim > 0 {
        if decode::suits(&call) {
            decode::run(&call, out);
        } else {
            let per_task = (ROWS / call.group).clamp(16, q_len.max(16));
            let blocks = q_len.div_ceil(per_task);
            (0..batch * k.heads * blocks)
                .into_par_iter()
                .for_each(|task| {
                    let first = task % blocks * per_task;
                    let block = Block {
                        call: &call,
                        batch: task / blocks / k.heads,
                        kv_head: task / blocks % k.heads,
                        first,
                        queries: per_task.min(q_len - first),
                        out,
                    };
                    match q.dtype() {
                        DType::BF16 => dispatch(Of::<bf16>(block, PhantomData)),
                        _ => dispatch(Of::<f32>(block, PhantomData)),
                    }
                });
        }
    }
    (y, log_sums)
}

/// One forward pass.
pub(super) struct Call<'a> {
    pub(super) attention: &'a Attention,
    pub(super) q: &'a Heads,
    pub(super) k: &'a Heads,
    pub(super) v: &'a Heads,
    pub(super) visible: Vec<Visible>,
    /// Query heads per key head.
    pub(super) group: usize,
}

impl<'a> Call<'a> {
    pub(super) fn new(attention: &'a Attention, q: &'a Heads, k: &'a Heads, v: &'a Heads) -> Self {
        Self {
            attention,
            q,
            k,
            v,
            visible: visible(&attention.mask, q.batch, q.seq, k.seq),
            group: q.heads / k.heads,
        }
    }

    pub(super) fn visible(&self, batch: usize, query: usize) -> &Visible {
        &self.visible[batch * self.q.seq + query]
    }

    /// Soft-caps the scores of one query and hides what it does not see.
    #[inline(always)]
    pub(super) fn mask<S: Simd>(
        &self,
        s: S,
        scores: &mut [f32],
        batch: usize,
        query: usize,
        first: usize,
    ) {
        if let Some(cap) = self.attention.softcap {
            soft_cap(s, scores, cap);
        }
        let row = Row {
            visible: self.visible(batch, query),
            first,
        };
        row.hide(scores, |key| self.attention.mask.allows(batch, query, key));
    }
}

/// Where the results go.
#[derive(Clone, Copy)]
pub(super) struct Output {
    y: Shared,
    log_sums: Shared,
}

impl Output {
    /// Writes one query's result, the accumulated values divided by the sum of their weights.
    ///
    /// # Safety
    /// `batch`, `head` and `query` must be of the call, and no other thread may write them.
    #[inline(always)]
    pub(super) unsafe fn write(
        self,
        call: &Call<'_>,
        [batch, head, query]: [usize; 3],
        values: &[f32],
        running: Running,
    ) {
        let Heads {
            heads,
            seq,
            head_dim,
            ..
        } = *call.q;
        let scale = if running.sum > 0.0 {
            1.0 / running.sum
        } else {
            0.0
        };
        // SAFETY: the caller vouches for the indices.
        unsafe {
            let y = self.y.at(((batch * seq + query) * heads + head) * head_dim);
            for (i, value) in values[..head_dim].iter().enumerate() {
                y.add(i).write(value * scale);
            }
            self.log_sums
                .at((batch * heads + head) * seq + query)
                .write(running.log_sum());
        }
    }
}

/// Some queries of all heads that share a key head.
struct Block<'a> {
    call: &'a Call<'a>,
    batch: usize,
    kv_head: usize,
    first: usize,
    queries: usize,
    out: Output,
}

impl Block<'_> {
    /// The head and query behind a row: the queries of one head after those of the other.
    fn place(&self, row: usize) -> (usize, usize) {
        let head = self.kv_head * self.call.group + row / self.queries;
        (head, self.first + row % self.queries)
    }

    /// The keys that some of the rows see.
    fn span(&self, rows: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let seen = rows
            .map(|row| {
                self.call
                    .visible(self.batch, self.place(row).1)
                    .keys
                    .clone()
            })
            .filter(|keys| !keys.is_empty());
        seen.reduce(|all, keys| all.start.min(keys.start)..all.end.max(keys.end))
            .unwrap_or_default()
    }
}

/// A block whose queries, keys and values are of this type.
struct Of<'a, E>(Block<'a>, PhantomData<E>);

impl<E: Stored> Kernel for Of<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.run::<S, E>(s);
    }
}

impl Block<'_> {
    #[inline(always)]
    fn run<S: Simd, E: Stored>(self, s: S) {
        let call = self.call;
        let d = call.q.head_dim;
        let padded = d.next_multiple_of(S::LANES);
        let rows = call.group * self.queries;
        let mut q = vec![0.0; rows * d];
        for (g, q) in q.chunks_exact_mut(self.queries * d).enumerate() {
            let head = call.q.head::<E>(self.batch, self.kv_head * call.group + g);
            pack::rows(
                s,
                head,
                self.first,
                self.queries,
                call.attention.factor(),
                q,
                d,
            );
        }
        let (key, value) = (
            call.k.head::<E>(self.batch, self.kv_head),
            call.v.head::<E>(self.batch, self.kv_head),
        );
        let mut sums = vec![0.0; rows * padded];
        let mut running = vec![Running::EMPTY; rows];
        let mut key_room = vec![0.0; pack::panel_room::<S>(d, KEYS)];
        let mut values = vec![0.0; KEYS * padded];
        let mut scores = vec![0.0; STRIP * KEYS];

        let span = self.span(0..rows);
        for first in span.clone().step_by(KEYS) {
            let last = (first + KEYS).min(span.end);
            let keys = pack::transposed::<S, E>(key, first, last - first, &mut key_room);
            pack::rows(s, value, first, last - first, 1.0, &mut values, padded);
            let values = pack::in_place::<S>(&values, padded);
            for top in (0..rows).step_by(STRIP) {
                let bottom = (top + STRIP).min(rows);
                let seen = self.span(top..bottom);
                if seen.start >= last || seen.end <= first {
                    continue;
                }
                let strip = Strip {
                    top,
                    bottom,
                    first,
                    keys: seen.end.min(last) - first,
                };
                self.absorb(
                    s,
                    strip,
                    (&q, keys, values),
                    &mut scores,
                    &mut sums,
                    &mut running,
                );
            }
        }
        for row in 0..rows {
            let (head, query) = self.place(row);
            // SAFETY: each row is of this call and of this task alone.
            unsafe {
                let values = &sums[row * padded..][..padded];
                self.out
                    .write(call, [self.batch, head, query], values, running[row]);
            }
        }
    }
}

/// Rows `top..bottom` against `keys` keys from `first` on.
#[derive(Clone, Copy)]
struct Strip {
    top: usize,
    bottom: usize,
    first: usize,
    keys: usize,
}

impl Block<'_> {
    /// Adds what the rows of a strip see in one block of keys to their running results.
    #[inline(always)]
    fn absorb<S: Simd>(
        &self,
        s: S,
        strip: Strip,
        (q, keys, values): (&[f32], Panels, Panels),
        scores: &mut [f32],
        sums: &mut [f32],
        running: &mut [Running],
    ) {
        let d = self.call.q.head_dim;
        let padded = d.next_multiple_of(S::LANES);
        let Strip {
            top,
            bottom,
            first,
            keys: n,
        } = strip;
        let rows = bottom - top;
        let width = n.next_multiple_of(S::LANES);
        // SAFETY: `q` holds `rows` rows from `top` on, the panels `d` rows of `KEYS ≥ width`
        // columns, and `scores` `STRIP ≥ rows` rows of `KEYS`.
        unsafe {
            let q = Strided {
                start: q[top * d..].as_ptr(),
                row_stride: d,
                col_stride: 1,
            };
            let out = (scores.as_mut_ptr(), KEYS);
            product(s, (rows, width / S::LANES, d), q, keys, out, false);
        }
        for row in top..bottom {
            let scores = &mut scores[(row - top) * KEYS..][..width];
            self.call
                .mask(s, scores, self.batch, self.place(row).1, first);
            let factor = running[row].absorb(s, scores);
            shrink(s, &mut sums[row * padded..][..padded], factor);
        }
        // SAFETY: as above; `values` holds `KEYS ≥ n` rows of `padded`, `sums` the rows' results.
        unsafe {
            let weights = Strided {
                start: scores.as_ptr(),
                row_stride: KEYS,
                col_stride: 1,
            };
            let out = (sums[top * padded..].as_mut_ptr(), padded);
            product(s, (rows, padded / S::LANES, n), weights, values, out, true);
        }
    }
}
