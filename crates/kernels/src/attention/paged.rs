//! Attention over keys and values that lie in pages, for sequences of any lengths at once.
//!
//! ```text
//! page   [kv_heads, page_len, head_dim]     slot s of a sequence: slot s % page_len of its
//!                                           page number s / page_len
//! ```
#![allow(unsafe_code, reason = "products are raw, bounds stated beside them")]

use std::fmt;

use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::decode::{AHEAD, KEYS, MAX_LANES, MAX_ROWS, join};
use super::forward;
use super::heads::Heads;
use super::softmax::{Row, Running, soft_cap};
use super::visible::Visible;
use super::{Attention, AttentionMask, attention, pack};
use crate::cpu::{self, tensor};
use crate::precision::Precision;
use crate::simd::{Kernel, Panels, Simd, Strided, dispatch, dot_rows, product};

/// Where the tokens of one sequence lie, and how many of them are new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagedSequence<'a> {
    /// Its pages in the order of its slots.
    pub pages: &'a [u32],
    /// Slots that were filled before.
    pub start: usize,
    /// New tokens, in the slots from `start` on.
    pub len: usize,
}

/// How scores are made, and what a query sees besides the slots before it and its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PagedScores {
    /// What queries are multiplied with.
    pub scale: f64,
    /// `softcap · tanh(s / softcap)`, where there is one.
    pub softcap: Option<f64>,
    /// The last slots that a query sees, its own included.
    pub window: Option<usize>,
    /// Whether each query is met by itself, in an order of sums that depends on its slot alone.
    pub alone: bool,
}

/// Keys and values of one layer for many sequences, in pages that sequences may share.
///
/// # Shapes
/// - new keys and values, and queries: `[tokens, heads, 1, head_dim]`, those of one sequence after
///   those of the other
///
/// # Examples
/// ```
/// use burn::tensor::{DType, Device, Tensor};
/// use flametune_kernels::{PagedKeysValues, PagedScores, PagedSequence};
///
/// let device = Device::flex();
/// let mut layer = PagedKeysValues::new([4, 8], [1, 16], &device, DType::F32);
/// let sequences = [PagedSequence { pages: &[2, 0], start: 0, len: 3 }];
/// let x = Tensor::<4>::ones([3, 1, 1, 16], &device);
/// layer.write(x.clone(), x.clone(), &sequences);
/// let scores = PagedScores { scale: 0.25, softcap: None, window: None, alone: false };
/// assert_eq!(layer.attend(x, &sequences, scores).dims(), [3, 1, 1, 16]);
/// ```
///
/// # Source
/// - Kwon et al. 2023, Efficient Memory Management for Large Language Model Serving with
///   PagedAttention, arXiv:2309.06180, §4.1
pub struct PagedKeysValues {
    store: Store,
    pages: usize,
    page_len: usize,
    kv_heads: usize,
    head_dim: usize,
}

#[allow(clippy::large_enum_variant, reason = "one a layer")]
enum Store {
    /// Plain memory, taken from the system when a page is first written.
    Native { keys: Vec<f32>, values: Vec<f32> },
    /// `[pages, kv_heads, page_len, head_dim]` each.
    Tensors { keys: Tensor<4>, values: Tensor<4> },
}

impl fmt::Debug for PagedKeysValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagedKeysValues")
            .field("pages", &self.pages)
            .field("page_len", &self.page_len)
            .field("kv_heads", &self.kv_heads)
            .field("head_dim", &self.head_dim)
            .finish_non_exhaustive()
    }
}

impl PagedKeysValues {
    /// Room for `pages` pages of `page_len` tokens, with `kv_heads` vectors of `head_dim` numbers a
    /// token.
    ///
    /// # Panics
    /// When a page has no room for a token.
    pub fn new(
        [pages, page_len]: [usize; 2],
        [kv_heads, head_dim]: [usize; 2],
        device: &Device,
        dtype: DType,
    ) -> Self {
        assert!(page_len > 0, "a page must have room for a token");
        let store = if dtype == DType::F32 && cpu::is_flex_device(device) {
            let len = pages * kv_heads * page_len * head_dim;
            Store::Native {
                keys: vec![0.0; len],
                values: vec![0.0; len],
            }
        } else {
            let empty =
                || Tensor::<4>::zeros([pages, kv_heads, page_len, head_dim], (device, dtype));
            Store::Tensors {
                keys: empty(),
                values: empty(),
            }
        };
        Self {
            store,
            pages,
            page_len,
            kv_heads,
            head_dim,
        }
    }

    /// Writes the keys and values of new tokens into the slots of their sequences.
    ///
    /// # Panics
    /// When shapes disagree, or a sequence has no page for one of its slots.
    pub fn write(&mut self, keys: Tensor<4>, values: Tensor<4>, sequences: &[PagedSequence<'_>]) {
        let tokens = self.check(sequences);
        let shape = [tokens, self.kv_heads, 1, self.head_dim];
        assert_eq!(keys.dims(), shape, "paged attention: new keys");
        assert_eq!(values.dims(), shape, "paged attention: new values");
        let (page_len, kv_heads, head_dim) = (self.page_len, self.kv_heads, self.head_dim);
        match &mut self.store {
            Store::Native {
                keys: all_keys,
                values: all_values,
            } => {
                for (new, all) in [(keys, all_keys), (values, all_values)] {
                    let new = Heads::new(native(new));
                    let mut first = 0;
                    for sequence in sequences {
                        for index in 0..sequence.len {
                            let slot = sequence.start + index;
                            let page = sequence.pages[slot / page_len] as usize;
                            for head in 0..kv_heads {
                                let at = (page * kv_heads + head) * page_len + slot % page_len;
                                let vector = new.head::<f32>(first + index, head).vector(0);
                                all[at * head_dim..][..head_dim].copy_from_slice(vector);
                            }
                        }
                        first += sequence.len;
                    }
                }
            }
            Store::Tensors {
                keys: all_keys,
                values: all_values,
            } => {
                let mut first = 0;
                for sequence in sequences {
                    let mut done = 0;
                    while done < sequence.len {
                        let slot = sequence.start + done;
                        let page = sequence.pages[slot / page_len] as usize;
                        let at = slot % page_len;
                        let count = (page_len - at).min(sequence.len - done);
                        let place = [page..page + 1, 0..kv_heads, at..at + count, 0..head_dim];
                        for (new, all) in [(&keys, &mut *all_keys), (&values, &mut *all_values)] {
                            let part = new.clone().narrow(0, first + done, count).swap_dims(0, 2);
                            *all = all.clone().slice_assign(place.clone(), part);
                        }
                        done += count;
                    }
                    first += sequence.len;
                }
            }
        }
    }

    /// Attention of the newest tokens of each sequence, which must be written already, to all its
    /// tokens up to them.
    ///
    /// # Panics
    /// When shapes disagree, or a sequence has no page for one of its slots.
    pub fn attend(
        &self,
        q: Tensor<4>,
        sequences: &[PagedSequence<'_>],
        scores: PagedScores,
    ) -> Tensor<4> {
        let tokens = self.check(sequences);
        let [batch, heads, seq, head_dim] = q.dims();
        assert_eq!(
            [batch, seq, head_dim],
            [tokens, 1, self.head_dim],
            "paged attention: queries"
        );
        assert!(
            self.kv_heads > 0 && heads.is_multiple_of(self.kv_heads),
            "paged attention: {} key heads must divide {heads} query heads",
            self.kv_heads
        );
        match &self.store {
            Store::Native { keys, values } => {
                let pages = Pages {
                    layer: self,
                    keys,
                    values,
                };
                let tracked = q.is_autodiff();
                let y = pages.attend(&Heads::new(native(q)), sequences, scores);
                let y = Tensor::from_primitive::<Flex>(y);
                if tracked { y.autodiff() } else { y }
            }
            Store::Tensors { keys, values } => {
                self.attend_tensors((keys, values), q, sequences, scores)
            }
        }
    }

    /// The number of new tokens, of sequences that have a page for each of their slots.
    fn check(&self, sequences: &[PagedSequence<'_>]) -> usize {
        let mut tokens = 0;
        for sequence in sequences {
            let needed = (sequence.start + sequence.len).div_ceil(self.page_len);
            assert!(
                sequence.pages.len() >= needed,
                "paged attention: {} pages where {needed} are needed",
                sequence.pages.len()
            );
            let outside = |&&page: &&u32| page as usize >= self.pages;
            let outside = sequence.pages.iter().find(outside);
            assert!(outside.is_none(), "paged attention: no page {outside:?}");
            tokens += sequence.len;
        }
        tokens
    }

    fn attend_tensors(
        &self,
        (keys, values): (&Tensor<4>, &Tensor<4>),
        q: Tensor<4>,
        sequences: &[PagedSequence<'_>],
        scores: PagedScores,
    ) -> Tensor<4> {
        let mut first = 0;
        let mut outputs = Vec::with_capacity(sequences.len());
        for sequence in sequences.iter().filter(|sequence| sequence.len > 0) {
            let end = sequence.start + sequence.len;
            let pages = &sequence.pages[..end.div_ceil(self.page_len)];
            let ids: Vec<i64> = pages.iter().map(|&page| i64::from(page)).collect();
            let ids = TensorData::new(ids, [pages.len()]);
            let ids: Tensor<1, Int> = Tensor::from_data(ids, &keys.device());
            let gather = |all: &Tensor<4>| {
                let slots = pages.len() * self.page_len;
                let all = all.clone().select(0, ids.clone()).swap_dims(0, 1);
                all.reshape([1, self.kv_heads, slots, self.head_dim])
                    .narrow(2, 0, end)
            };
            let own = q.clone().narrow(0, first, sequence.len).swap_dims(0, 2);
            let mask = mask(sequence.start, scores.window);
            let y = attention(
                own,
                gather(keys),
                gather(values),
                &mask,
                scores.scale,
                scores.softcap,
            );
            outputs.push(y.swap_dims(0, 2));
            first += sequence.len;
        }
        match outputs.is_empty() {
            true => q,
            false => Tensor::cat(outputs, 0),
        }
    }
}

/// What a query that stands behind `start` others sees.
fn mask(start: usize, window: Option<usize>) -> AttentionMask {
    let mask = AttentionMask::causal(start);
    match window {
        Some(window) => mask.with_window(window),
        None => mask,
    }
}

/// The tensor behind one that lives on Flex.
#[allow(
    clippy::expect_used,
    reason = "the device of the layer decides, and tensors of two devices never meet"
)]
fn native(tensor: Tensor<4>) -> FlexTensor {
    let tensor = tensor.without_autodiff();
    tensor
        .try_into_primitive::<Flex>()
        .expect("a tensor on the device of the layer")
}

/// A layer in plain memory.
struct Pages<'a> {
    layer: &'a PagedKeysValues,
    keys: &'a [f32],
    values: &'a [f32],
}

/// Some neighbouring queries of one sequence.
#[derive(Clone, Copy)]
struct Unit<'a> {
    pages: &'a [u32],
    /// Their place among all queries.
    first: usize,
    count: usize,
    /// The slot of the first.
    slot: usize,
    /// The first slot that is looked at; none before it is seen.
    begin: usize,
}

impl Unit<'_> {
    fn end(&self) -> usize {
        self.slot + self.count
    }

    fn chunks(&self) -> usize {
        (self.end() - self.begin).div_ceil(KEYS)
    }
}

impl Pages<'_> {
    fn attend(
        &self,
        q: &Heads,
        sequences: &[PagedSequence<'_>],
        scores: PagedScores,
    ) -> FlexTensor {
        let (heads, d) = (q.heads, q.head_dim);
        let group = heads / self.layer.kv_heads;
        let mut y = vec![0.0; q.batch * heads * d];
        let (mut few, mut many) = (Vec::new(), Vec::new());
        let mut first = 0;
        for sequence in sequences {
            let step = if scores.alone { 1 } else { sequence.len.max(1) };
            for index in (0..sequence.len).step_by(step) {
                let slot = sequence.start + index;
                let begin = scores
                    .window
                    .map_or(0, |window| (slot + 1).saturating_sub(window));
                let unit = Unit {
                    pages: sequence.pages,
                    first: first + index,
                    count: step,
                    slot,
                    begin: begin / self.layer.page_len * self.layer.page_len,
                };
                if group * unit.count <= MAX_ROWS && d.is_multiple_of(MAX_LANES) && d > 0 {
                    few.push(unit);
                } else {
                    many.push(unit);
                }
            }
            first += sequence.len;
        }
        self.few(q, &few, scores, &mut y);
        let outputs: Vec<Vec<f32>> = match many.as_slice() {
            [unit] => vec![self.many(q, *unit, scores)],
            units => units
                .par_iter()
                .map(|&unit| self.many(q, unit, scores))
                .collect(),
        };
        for (unit, output) in many.iter().zip(outputs) {
            y[unit.first * heads * d..][..output.len()].copy_from_slice(&output);
        }
        tensor(y, Shape::from([q.batch, heads, 1, d]))
    }

    /// Copies what the queries see, and meets it block by block.
    fn many(&self, q: &Heads, unit: Unit<'_>, scores: PagedScores) -> Vec<f32> {
        let (kv_heads, d) = (self.layer.kv_heads, self.layer.head_dim);
        let len = unit.end() - unit.begin;
        let gather = |all: &[f32]| {
            let mut own = vec![0.0; kv_heads * len * d];
            for head in 0..kv_heads {
                self.runs(unit, head, unit.begin..unit.end(), |slot, from, count| {
                    let to = &mut own[(head * len + slot - unit.begin) * d..][..count * d];
                    to.copy_from_slice(&all[from..][..count * d]);
                });
            }
            Heads::new(tensor(own, Shape::from([1, kv_heads, len, d])))
        };
        let attention = self.attention(unit.slot - unit.begin, scores);
        let q = q.sequence(unit.first, unit.count);
        let (k, v) = (gather(self.keys), gather(self.values));
        forward::run(&attention, &q, &k, &v).0
    }

    fn attention(&self, start: usize, scores: PagedScores) -> Attention {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "rounded to the compute type"
        )]
        Attention {
            mask: mask(start, scores.window),
            scale: scores.scale as f32,
            softcap: scores.softcap.map(|cap| cap as f32),
            precision: Precision::Full,
        }
    }

    /// Calls `visit(slot, where its numbers of a head start, how many slots follow there)` for
    /// every piece of `slots` that lies in one page.
    #[inline(always)]
    fn runs(
        &self,
        unit: Unit<'_>,
        head: usize,
        slots: std::ops::Range<usize>,
        mut visit: impl FnMut(usize, usize, usize),
    ) {
        let PagedKeysValues {
            page_len,
            kv_heads,
            head_dim,
            ..
        } = *self.layer;
        let mut slot = slots.start;
        while slot < slots.end {
            let (page, at) = (unit.pages[slot / page_len] as usize, slot % page_len);
            let count = (page_len - at).min(slots.end - slot);
            visit(
                slot,
                ((page * kv_heads + head) * page_len + at) * head_dim,
                count,
            );
            slot += count;
        }
    }

    /// Reads keys and values once, where they lie.
    fn few(&self, q: &Heads, units: &[Unit<'_>], scores: PagedScores, y: &mut [f32]) {
        let (kv_heads, d) = (self.layer.kv_heads, self.layer.head_dim);
        let group = q.heads / kv_heads;
        let attention = self.attention(0, scores);
        let tasks: Vec<(Unit<'_>, usize, usize)> = units
            .iter()
            .flat_map(|&unit| {
                (0..kv_heads).flat_map(move |head| {
                    (0..unit.chunks()).map(move |chunk| (unit, head, unit.begin + chunk * KEYS))
                })
            })
            .collect();
        let work = |&(unit, kv_head, first): &(Unit<'_>, usize, usize)| {
            let rows = group * unit.count;
            let mut partial = vec![0.0; rows * (d + 2)];
            let (values, states) = partial.split_at_mut(rows * d);
            dispatch(Chunk {
                pages: self,
                attention: &attention,
                q: &q.sequence(unit.first, unit.count),
                unit,
                kv_head,
                first,
                keys: KEYS.min(unit.end() - first),
                values,
                states,
            });
            partial
        };
        let partials: Vec<Vec<f32>> = match tasks.as_slice() {
            [task] => vec![work(task)],
            tasks => tasks.par_iter().map(work).collect(),
        };
        let mut partials = partials.as_slice();
        for unit in units {
            let rows = group * unit.count;
            for kv_head in 0..kv_heads {
                let (own, rest) = partials.split_at(unit.chunks());
                partials = rest;
                for row in 0..rows {
                    let (values, running) = join(own.iter().map(Vec::as_slice), rows, row, d);
                    let (g, query) = (row / unit.count, row % unit.count);
                    let head = kv_head * group + g;
                    let to = &mut y[((unit.first + query) * q.heads + head) * d..][..d];
                    let scale = 1.0 / running.sum;
                    for (to, value) in to.iter_mut().zip(values) {
                        *to = value * scale;
                    }
                }
            }
        }
    }
}

/// Some keys of one key head, for the few rows that read them.
struct Chunk<'a> {
    pages: &'a Pages<'a>,
    attention: &'a Attention,
    q: &'a Heads,
    unit: Unit<'a>,
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
        match self.q.heads / self.pages.layer.kv_heads * self.unit.count {
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
        let Self { pages, unit, .. } = self;
        let (d, count) = (pages.layer.head_dim, unit.count);
        let group = self.q.heads / pages.layer.kv_heads;
        let mut q = vec![0.0; M * d];
        for (g, q) in q.chunks_exact_mut(count * d).enumerate() {
            let head = self.q.head::<f32>(0, self.kv_head * group + g);
            pack::rows(s, head, 0, count, self.attention.factor(), q, d);
        }
        let mut queries = [std::ptr::null(); M];
        for (query, q) in queries.iter_mut().zip(q.chunks_exact(d)) {
            *query = q.as_ptr();
        }
        let (first, last) = (self.first, self.first + self.keys);
        let mut scores = vec![0.0; M * KEYS];
        pages.runs(unit, self.kv_head, first..last, |slot, from, run| {
            let keys = &pages.keys[from..][..run * d];
            let mut at = 0;
            while at < run {
                // Two keys at a time; an odd last one is taken twice.
                let next = (at + 1).min(run - 1);
                let pair = [keys[at * d..].as_ptr(), keys[next * d..].as_ptr()];
                // SAFETY: keys and queries are `d` values each.
                let sums = unsafe { dot_rows::<S, f32, 2, M>(s, pair, queries, d, AHEAD * d) };
                for m in 0..M {
                    scores[m * KEYS + slot - first + at] = sums[0][m];
                    scores[m * KEYS + slot - first + next] = sums[1][m];
                }
                at += 2;
            }
        });
        let width = self.keys.next_multiple_of(S::LANES);
        for row in 0..M {
            let scores = &mut scores[row * KEYS..][..width];
            if let Some(cap) = self.attention.softcap {
                soft_cap(s, scores, cap);
            }
            let end = unit.slot + row % count + 1;
            let window = self.attention.mask.window();
            let visible = Visible {
                keys: window.map_or(0, |window| end.saturating_sub(window))..end,
                gaps: false,
            };
            let seen = Row {
                visible: &visible,
                first,
            };
            seen.hide(scores, |_| true);
            let mut running = Running::EMPTY;
            running.absorb(s, scores);
            self.states[2 * row] = running.max;
            self.states[2 * row + 1] = running.sum;
        }
        let out = (self.values.as_mut_ptr(), d);
        pages.runs(unit, self.kv_head, first..last, |slot, from, run| {
            let values = Panels {
                start: pages.values[from..][..run * d].as_ptr(),
                row_stride: d,
                panel_stride: S::LANES * S::TILE_VECS,
            };
            let weights = Strided {
                start: scores[slot - first..].as_ptr(),
                row_stride: KEYS,
                col_stride: 1,
            };
            // SAFETY: `d` is a multiple of the register's length, so `values` are `run` rows of
            // whole registers, `weights` `M` rows of `KEYS`, the output `M` of `d`.
            unsafe { product(s, (M, d / S::LANES, run), weights, values, out, true) };
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    /// Sequences of all kinds: long, new, one query, several, a shared first page.
    const SEQUENCES: [PagedSequence<'static>; 4] = [
        PagedSequence {
            pages: &[
                3, 1, 4, 15, 9, 2, 6, 5, 35, 8, 7, 32, 33, 34, 36, 37, 38, 39,
            ],
            start: 281,
            len: 1,
        },
        PagedSequence {
            pages: &[0, 10, 11, 12],
            start: 0,
            len: 50,
        },
        PagedSequence {
            pages: &[13, 14],
            start: 15,
            len: 3,
        },
        PagedSequence {
            pages: &[3, 16],
            start: 20,
            len: 2,
        },
    ];

    fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().try_to_vec::<f32>().unwrap()
    }

    /// A layer of random numbers, with plain copies of its keys and values.
    fn layer(kv_heads: usize, d: usize, device: &Device) -> (PagedKeysValues, [Tensor<4>; 2]) {
        let mut layer = PagedKeysValues::new([40, 16], [kv_heads, d], device, DType::F32);
        let all = [0, 1].map(|_| random([640, kv_heads, 1, d], device));
        let pages: Vec<u32> = (0..40).collect();
        let whole = [PagedSequence {
            pages: &pages,
            start: 0,
            len: 640,
        }];
        layer.write(all[0].clone(), all[1].clone(), &whole);
        (layer, all)
    }

    /// What the plain operation computes for one sequence.
    fn expected(
        q: &Tensor<4>,
        all: &[Tensor<4>; 2],
        sequence: PagedSequence<'_>,
        first: usize,
        scores: PagedScores,
    ) -> Vec<f32> {
        let end = sequence.start + sequence.len;
        let slots: Vec<i64> = (0..end)
            .map(|slot| i64::from(sequence.pages[slot / 16]) * 16 + (slot % 16) as i64)
            .collect();
        let slots: Tensor<1, Int> = Tensor::from_data(TensorData::new(slots, [end]), &q.device());
        let gather = |all: &Tensor<4>| all.clone().select(0, slots.clone()).swap_dims(0, 2);
        let own = q.clone().narrow(0, first, sequence.len).swap_dims(0, 2);
        let (k, v) = (gather(&all[0]), gather(&all[1]));
        let mask = mask(sequence.start, scores.window);
        let y = super::super::reference::attention(own, k, v, &mask, scores.scale, scores.softcap);
        values(y.swap_dims(0, 2))
    }

    fn each_case(mut check: impl FnMut([usize; 3], PagedScores)) {
        for [heads, kv_heads, d] in [[6, 2, 32], [4, 4, 16], [4, 1, 8], [12, 1, 16]] {
            for (softcap, window) in [(None, None), (Some(5.0), Some(7)), (None, Some(100))] {
                for alone in [false, true] {
                    let scores = PagedScores {
                        scale: 0.3,
                        softcap,
                        window,
                        alone,
                    };
                    check([heads, kv_heads, d], scores);
                }
            }
        }
    }

    #[test]
    fn pages_equal_plain_rows() {
        let device = Device::flex();
        each_case(|[heads, kv_heads, d], scores| {
            let (mut layer, all) = layer(kv_heads, d, &device);
            let q = random([56, heads, 1, d], &device);
            let check = |layer: &PagedKeysValues| {
                let got = values(layer.attend(q.clone(), &SEQUENCES, scores));
                let mut first = 0;
                for sequence in SEQUENCES {
                    let expected = expected(&q, &all, sequence, first, scores);
                    let got = &got[first * heads * d..][..expected.len()];
                    for (got, expected) in got.iter().zip(&expected) {
                        // Sums of up to 282 products in another order, in f32.
                        assert!((got - expected).abs() < 1e-5, "{got} {expected} {scores:?}");
                    }
                    first += sequence.len;
                }
            };
            check(&layer);
            // The same in tensors, as other backends keep them.
            let shape = [40, kv_heads, 16, d];
            let Store::Native { keys, values } = &layer.store else {
                panic!("native")
            };
            let tensor = |all: &Vec<f32>| {
                Tensor::<4>::from_data(TensorData::new(all.clone(), shape), &device)
            };
            layer.store = Store::Tensors {
                keys: tensor(keys),
                values: tensor(values),
            };
            check(&layer);
            let mut other = PagedKeysValues::new([40, 16], [kv_heads, d], &device, DType::F32);
            other.store = Store::Tensors {
                keys: Tensor::zeros(shape, &device),
                values: Tensor::zeros(shape, &device),
            };
            let pages: Vec<u32> = (0..40).collect();
            let parts = [(0, 250), (250, 390)].map(|(start, len)| PagedSequence {
                pages: &pages,
                start,
                len,
            });
            for part in parts {
                let of = |t: &Tensor<4>| t.clone().narrow(0, part.start, part.len);
                other.write(of(&all[0]), of(&all[1]), &[part]);
            }
            check(&other);
        });
    }

    #[test]
    fn a_query_alone_equals_itself_among_others_to_the_bit() {
        let device = Device::flex();
        each_case(|[heads, kv_heads, d], scores| {
            if !scores.alone {
                return;
            }
            let (layer, _) = layer(kv_heads, d, &device);
            let q = random([56, heads, 1, d], &device);
            let together = values(layer.attend(q.clone(), &SEQUENCES, scores));
            let mut first = 0;
            for sequence in SEQUENCES {
                for index in 0..sequence.len {
                    let one = PagedSequence {
                        start: sequence.start + index,
                        len: 1,
                        ..sequence
                    };
                    let q = q.clone().narrow(0, first + index, 1);
                    let alone = values(layer.attend(q, &[one], scores));
                    let at = (first + index) * heads * d;
                    assert_eq!(together[at..at + heads * d], alone);
                }
                first += sequence.len;
            }
        });
    }
}
