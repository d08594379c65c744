//! Few queries against many keys: keys and values are read once, where they lie.
#![allow(
    unsafe_code,
    reason = "threads write separate rows of one buffer; products are raw"
)]

use burn::tensor::DType;
use rayon::prelude::*;

use super::forward::{Call, Output};
use super::pack;
use super::softmax::Running;
use crate::simd::{Kernel, Panels, Simd, Strided, dispatch, dot_rows, product};

/// The most rows (queries of all heads of a group) that one pass over the keys serves.
pub(super) const MAX_ROWS: usize = 8;

/// Keys per task. Fixed, so that results do not depend on the number of threads.
pub(super) const KEYS: usize = 256;

/// Keys between one in use and one being prefetched.
pub(super) const AHEAD: usize = 16;

/// No instruction set has more lanes.
pub(super) const MAX_LANES: usize = 16;

/// Whether there are few enough queries, in vectors that fill registers.
pub(super) fn suits(call: &Call<'_>) -> bool {
    call.group * call.q.seq <= MAX_ROWS
        && call.q.head_dim.is_multiple_of(MAX_LANES)
        && call.q.dtype() == DType::F32
}

pub(super) fn run(call: &Call<'_>, out: Output) {
    let (rows, d) = (call.group * call.q.seq, call.q.head_dim);
    let chunks = call.k.seq.div_ceil(KEYS);
    let tasks = call.q.batch * call.k.heads * chunks;
    // Per task and row: the weighted values, the largest score, the sum of weights.
    let room = rows * (d + 2);
    let mut partial = vec![0.0; tasks * room];
    let work = |(task, partial): (usize, &mut [f32])| {
        let (values, states) = partial.split_at_mut(rows * d);
        let first = task % chunks * KEYS;
        let keys = KEYS.min(call.k.seq - first);
        let (batch, kv_head) = (task / chunks / call.k.heads, task / chunks % call.k.heads);
        dispatch(Chunk {
            call,
            batch,
            kv_head,
            first,
            keys,
            values,
            states,
        });
    };
    if tasks == 1 {
        work((0, &mut partial));
    } else {
        partial
            .par_chunks_exact_mut(room)
            .enumerate()
            .for_each(work);
    }
    for (pair, partial) in partial.chunks_exact(chunks * room).enumerate() {
        let (batch, kv_head) = (pair / call.k.heads, pair % call.k.heads);
        for row in 0..rows {
            let (values, running) = join(partial.chunks_exact(room), rows, row, d);
            let (g, query) = (row / call.q.seq, row % call.q.seq);
            // SAFETY: the indices are of this call, and this thread alone writes.
            unsafe {
                out.write(
                    call,
                    [batch, kv_head * call.group + g, query],
                    &values,
                    running,
                )
            };
        }
    }
}

/// The result of one row from those of its chunks, in order.
pub(super) fn join<'a>(
    chunks: impl Iterator<Item = &'a [f32]> + Clone,
    rows: usize,
    row: usize,
    d: usize,
) -> (Vec<f32>, Running) {
    let state = |chunk: &[f32]| {
        let at = rows * d + 2 * row;
        Running {
            max: chunk[at],
            sum: chunk[at + 1],
        }
    };
    let max = chunks
        .clone()
        .map(|chunk| state(chunk).max)
        .fold(f32::NEG_INFINITY, f32::max);
    let mut values = vec![0.0; d];
    let mut running = Running { max, sum: 0.0 };
    for chunk in chunks {
        let part = state(chunk);
        if part.sum > 0.0 {
            let factor = (part.max - max).exp();
            running.sum += part.sum * factor;
            for (value, part) in values.iter_mut().zip(&chunk[row * d..]) {
                *value += part * factor;
            }
        }
    }
    (values, running)
}

/// Some keys of one key head, for all rows that read it.
struct Chunk<'a> {
    call: &'a Call<'a>,
    batch: usize,
    kv_head: usize,
    first: usize,
    keys: usize,
    values: &'a mut [f32],
    states: &'a mut [f32],
}

impl Kernel for Chunk<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.call.group * self.call.q.seq {
            1 => self.rows::<S, 1>(s),
            2 => self.rows::<S, 2>(s),
            3 => self.rows::<S, 3>(s),
            4 => self.rows::<S, 4>(s),
            5 => self.rows::<S, 5>(s),
            6 => self.rows::<S, 6>(s),
            7 => self.rows::<S, 7>(s),
            _ => self.rows::<S, 8>(s),
        }
    }
}

impl Chunk<'_> {
    #[inline(always)]
    fn rows<S: Simd, const M: usize>(self, s: S) {
        let call = self.call;
        let d = call.q.head_dim;
        let q_len = call.q.seq;
        let mut q = vec![0.0; M * d];
        for (g, q) in q.chunks_exact_mut(q_len * d).enumerate() {
            let head = call
                .q
                .head::<f32>(self.batch, self.kv_head * call.group + g);
            pack::rows(s, head, 0, q_len, call.attention.factor(), q, d);
        }
        let mut queries = [std::ptr::null(); M];
        for (query, q) in queries.iter_mut().zip(q.chunks_exact(d)) {
            *query = q.as_ptr();
        }
        let key = call.k.head::<f32>(self.batch, self.kv_head);
        let mut scores = vec![0.0; M * KEYS];
        let ahead = AHEAD * key.stride;
        let mut at = 0;
        while at < self.keys {
            // Two keys at a time; an odd last one is taken twice.
            let next = (at + 1).min(self.keys - 1);
            let pair = [key.vector(self.first + at), key.vector(self.first + next)];
            // SAFETY: keys and queries are `d` values each.
            let sums = unsafe {
                dot_rows::<S, f32, 2, M>(s, pair.map(<[f32]>::as_ptr), queries, d, ahead)
            };
            for m in 0..M {
                scores[m * KEYS + at] = sums[0][m];
                scores[m * KEYS + next] = sums[1][m];
            }
            at += 2;
        }
        let width = self.keys.next_multiple_of(S::LANES);
        for row in 0..M {
            let scores = &mut scores[row * KEYS..][..width];
            call.mask(s, scores, self.batch, row % q_len, self.first);
            let mut running = Running::EMPTY;
            running.absorb(s, scores);
            self.states[2 * row] = running.max;
            self.states[2 * row + 1] = running.sum;
        }
        let value = call.v.head::<f32>(self.batch, self.kv_head);
        let values = Panels {
            start: value.data[self.first * value.stride..].as_ptr(),
            row_stride: value.stride,
            panel_stride: S::LANES * S::TILE_VECS,
        };
        let weights = Strided {
            start: scores.as_ptr(),
            row_stride: KEYS,
            col_stride: 1,
        };
        // SAFETY: `d` is a multiple of the register's length, so `values` are `keys` rows of
        // whole registers inside the head, `scores` `M` rows of `KEYS`, the output `M` of `d`.
        unsafe {
            let out = (self.values.as_mut_ptr(), d);
            product(s, (M, d / S::LANES, self.keys), weights, values, out, false);
        }
    }
}
