//! The backward pass: scores are recomputed block by block from the saved `ln Σ e^score`.
#![allow(
    unsafe_code,
    reason = "threads write separate heads of one output; products are raw"
)]

use std::marker::PhantomData;

use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::bf16;
use rayon::prelude::*;

use super::forward::Call;
use super::heads::{Heads, heads_inside};
use super::{Attention, pack};
use crate::cpu::{Shared, Stored};
use crate::simd::{Kernel, Simd, Strided, dispatch, exp, product, read, write};

/// Keys per block.
const KEYS: usize = 64;

/// Queries per strip.
const STRIP: usize = 48;

/// What the backward pass keeps of the forward pass: tensors of f32, or of bf16.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) q: FlexTensor,
    pub(super) k: FlexTensor,
    pub(super) v: FlexTensor,
    pub(super) y: FlexTensor,
    pub(super) log_sums: Vec<f32>,
}

/// The gradients of q, k and v for the output gradient `dy`.
///
/// With weights `P = e^(S − ln Σ e^S)`: `dV = Pᵀ·dY`, `dP = dY·Vᵀ`,
/// `dS = P ∘ (dP − rowsum(dY ∘ Y))`, `dQ = scale·dS·K`, `dK = scale·dSᵀ·Q`; a soft cap multiplies
/// `dS` by its slope `1 − tanh²`.
pub(super) fn gradient(attention: &Attention, saved: Saved, dy: FlexTensor) -> [FlexTensor; 3] {
    let Saved {
        q,
        k,
        v,
        y,
        log_sums,
    } = saved;
    let (q, k, v) = (Heads::new(q), Heads::new(k), Heads::new(v));
    let (y, dy) = (Heads::new(y), Heads::new(dy));
    let call = Call::new(attention, &q, &k, &v);
    let (batch, heads, d) = (q.batch, q.heads, q.head_dim);
    let mut dq = vec![0.0; batch * q.seq * heads * d];
    // Every query head writes its own share of the gradients of its key head.
    let mut dk = vec![0.0; batch * k.seq * heads * d];
    let mut dv = dk.clone();
    let out = [&mut dq, &mut dk, &mut dv].map(|out| Shared(out.as_mut_ptr()));
    if k.seq > 0 && q.seq > 0 && d > 0 {
        (0..batch * heads).into_par_iter().for_each(|task| {
            let (batch, head) = (task / heads, task % heads);
            let gradient = HeadGradient {
                call: &call,
                y: &y,
                dy: &dy,
                log_sums: &log_sums,
                batch,
                head,
                out,
            };
            match q.dtype() {
                DType::BF16 => dispatch(Of::<bf16>(gradient, PhantomData)),
                _ => dispatch(Of::<f32>(gradient, PhantomData)),
            }
        });
    }
    let dims = [batch, k.heads, k.seq, d];
    [
        heads_inside(dq, [batch, heads, q.seq, d]),
        heads_inside(add_groups(dk, call.group, d), dims),
        heads_inside(add_groups(dv, call.group, d), dims),
    ]
}

/// Adds the shares of each group of `group` neighbouring heads, in order.
fn add_groups(shares: Vec<f32>, group: usize, d: usize) -> Vec<f32> {
    if group == 1 || shares.is_empty() {
        return shares;
    }
    let mut sums = vec![0.0; shares.len() / group];
    sums.par_chunks_exact_mut(d)
        .zip(shares.par_chunks_exact(group * d))
        .for_each(|(sum, shares)| {
            for share in shares.chunks_exact(d) {
                sum.iter_mut()
                    .zip(share)
                    .for_each(|(sum, share)| *sum += share);
            }
        });
    sums
}

/// One query head of one batch row.
struct HeadGradient<'a> {
    call: &'a Call<'a>,
    y: &'a Heads,
    dy: &'a Heads,
    log_sums: &'a [f32],
    batch: usize,
    head: usize,
    /// dq, dk, dv.
    out: [Shared; 3],
}

/// One head's operands and results, in rows padded to whole registers.
struct Room {
    q: Vec<f32>,
    k: Vec<f32>,
    dy: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    /// `rowsum(dY ∘ Y)`.
    dots: Vec<f32>,
    scores: Vec<f32>,
    slopes: Vec<f32>,
}

/// A head whose queries, keys, values and outputs are of this type.
struct Of<'a, E>(HeadGradient<'a>, PhantomData<E>);

impl<E: Stored> Kernel for Of<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.run::<S, E>(s);
    }
}

impl HeadGradient<'_> {
    #[inline(always)]
    fn run<S: Simd, E: Stored>(self, s: S) {
        let call = self.call;
        let (q_len, k_len, d) = (call.q.seq, call.k.seq, call.q.head_dim);
        let padded = d.next_multiple_of(S::LANES);
        let kv_head = self.head / call.group;
        let (key, value) = (
            call.k.head::<E>(self.batch, kv_head),
            call.v.head::<E>(self.batch, kv_head),
        );
        let mut room = self.room::<S, E>(s, padded);
        let mut key_room = vec![0.0; pack::panel_room::<S>(d, KEYS)];
        let mut value_room = key_room.clone();
        for first in (0..k_len).step_by(KEYS) {
            let count = KEYS.min(k_len - first);
            let keys = pack::transposed::<S, E>(key, first, count, &mut key_room);
            let values = pack::transposed::<S, E>(value, first, count, &mut value_room);
            for top in (0..q_len).step_by(STRIP) {
                let bottom = (top + STRIP).min(q_len);
                let seen = |query: usize| {
                    let keys = &call.visible(self.batch, query).keys;
                    keys.start < first + count && keys.end > first
                };
                if (top..bottom).any(seen) {
                    self.strip(s, &mut room, [keys, values], [top, bottom], [first, count]);
                }
            }
        }
        let factor = call.attention.factor();
        self.write(0, &room.dq, q_len, padded, factor);
        self.write(1, &room.dk, k_len, padded, 1.0);
        self.write(2, &room.dv, k_len, padded, 1.0);
    }
}

impl HeadGradient<'_> {
    #[inline(always)]
    fn room<S: Simd, E: Stored>(&self, s: S, padded: usize) -> Room {
        let call = self.call;
        let (q_len, k_len) = (call.q.seq, call.k.seq);
        let mut room = Room {
            q: vec![0.0; q_len * padded],
            k: vec![0.0; k_len * padded],
            dy: vec![0.0; q_len * padded],
            dq: vec![0.0; q_len * padded],
            dk: vec![0.0; k_len * padded],
            dv: vec![0.0; k_len * padded],
            dots: vec![0.0; q_len],
            scores: vec![0.0; STRIP * KEYS],
            slopes: vec![0.0; STRIP * KEYS],
        };
        let q = call.q.head::<E>(self.batch, self.head);
        let k = call.k.head::<E>(self.batch, self.head / call.group);
        let (y, dy) = (
            self.y.head::<E>(self.batch, self.head),
            self.dy.head::<f32>(self.batch, self.head),
        );
        pack::rows(s, q, 0, q_len, call.attention.factor(), &mut room.q, padded);
        pack::rows(s, k, 0, k_len, 1.0, &mut room.k, padded);
        pack::rows(s, dy, 0, q_len, 1.0, &mut room.dy, padded);
        for (query, dot) in room.dots.iter_mut().enumerate() {
            let (y, dy) = (y.vector(query), dy.vector(query));
            let mut sum = s.splat(0.0);
            for at in (0..y.len()).step_by(S::LANES) {
                sum = s.mul_add(read(s, y, at), read(s, dy, at), sum);
            }
            *dot = s.sum(sum);
        }
        room
    }

    /// Queries `top..bottom` against `count` keys from `first` on.
    #[inline(always)]
    fn strip<S: Simd>(
        &self,
        s: S,
        room: &mut Room,
        [keys, values]: [crate::simd::Panels; 2],
        [top, bottom]: [usize; 2],
        [first, count]: [usize; 2],
    ) {
        let d = self.call.q.head_dim;
        let padded = d.next_multiple_of(S::LANES);
        let (rows, vecs) = (bottom - top, padded / S::LANES);
        let width = count.next_multiple_of(S::LANES);
        let along = |rows: &[f32]| Strided {
            start: rows[top * padded..].as_ptr(),
            row_stride: padded,
            col_stride: 1,
        };
        // SAFETY: q and dy hold `rows` rows from `top` on, the panels `d` rows of `width`
        // columns, and both score buffers `STRIP ≥ rows` rows of `KEYS ≥ width`.
        unsafe {
            let scores = (room.scores.as_mut_ptr(), KEYS);
            product(
                s,
                (rows, width / S::LANES, d),
                along(&room.q),
                keys,
                scores,
                false,
            );
            let slopes = (room.slopes.as_mut_ptr(), KEYS);
            product(
                s,
                (rows, width / S::LANES, d),
                along(&room.dy),
                values,
                slopes,
                false,
            );
        }
        for query in top..bottom {
            let at = (query - top) * KEYS;
            let (scores, slopes) = (
                &mut room.scores[at..][..width],
                &mut room.slopes[at..][..width],
            );
            self.weights_and_slopes(s, query, first, room.dots[query], scores, slopes);
        }
        let across = |scores: &[f32]| Strided {
            start: scores.as_ptr(),
            row_stride: 1,
            col_stride: KEYS,
        };
        let slopes = Strided {
            start: room.slopes.as_ptr(),
            row_stride: KEYS,
            col_stride: 1,
        };
        // SAFETY: as above; k, dk and dv hold `count` rows from `first` on, dq the queries.
        unsafe {
            let dy = pack::in_place::<S>(&room.dy[top * padded..], padded);
            let dv = (room.dv[first * padded..].as_mut_ptr(), padded);
            product(s, (count, vecs, rows), across(&room.scores), dy, dv, true);
            let q = pack::in_place::<S>(&room.q[top * padded..], padded);
            let dk = (room.dk[first * padded..].as_mut_ptr(), padded);
            product(s, (count, vecs, rows), across(&room.slopes), q, dk, true);
            let k = pack::in_place::<S>(&room.k[first * padded..], padded);
            let dq = (room.dq[top * padded..].as_mut_ptr(), padded);
            product(s, (rows, vecs, count), slopes, k, dq, true);
        }
    }

    /// Turns one query's scores into weights, and `dP` into the gradient of `q·k·factor`.
    #[inline(always)]
    fn weights_and_slopes<S: Simd>(
        &self,
        s: S,
        query: usize,
        first: usize,
        dot: f32,
        scores: &mut [f32],
        slopes: &mut [f32],
    ) {
        let call = self.call;
        call.mask(s, scores, self.batch, query, first);
        let log_sum = self.log_sums[(self.batch * call.q.heads + self.head) * call.q.seq + query];
        let (log_sum, dot) = (s.splat(log_sum), s.splat(dot));
        for at in (0..scores.len()).step_by(S::LANES) {
            let score = read(s, scores, at);
            let weight = exp(s, s.sub(score, log_sum));
            let mut slope = s.mul(weight, s.sub(read(s, slopes, at), dot));
            if let Some(cap) = call.attention.softcap {
                // score = cap·t, and d(score)/dz = cap·(1 − t²); hidden scores have no slope.
                let t = s.max(s.splat(-1.0), s.mul(score, s.splat(1.0 / cap)));
                let bend = s.sub(s.splat(1.0), s.mul(t, t));
                slope = s.mul(slope, s.mul(s.splat(cap), bend));
            }
            write(s, weight, scores, at);
            write(s, slope, slopes, at);
        }
    }

    /// Writes one head's rows, each times `factor`, where they belong.
    fn write(&self, which: usize, rows: &[f32], seq: usize, padded: usize, factor: f32) {
        let (heads, d) = (self.call.q.heads, self.call.q.head_dim);
        for (index, row) in rows.chunks_exact(padded).enumerate() {
            let at = ((self.batch * seq + index) * heads + self.head) * d;
            for (i, value) in row[..d].iter().enumerate() {
                // SAFETY: the vector lies inside the output, and only this task writes its head.
                unsafe { self.out[which].at(at + i).write(value * factor) };
            }
        }
    }
}
