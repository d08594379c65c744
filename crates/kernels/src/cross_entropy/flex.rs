//! The pass on the CPU: a chunk of rows at a time, and of that a tile of classes at a time, so
//! that what follows a product finds its result in the cache.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::Wants;
use super::head::{Head, Hidden};
use super::targets::Targets;
use super::tile::{Keep, Shaping, Slope, Slopes, Stats, Summarise, Sums, TILE};
use crate::cpu::Rows;
use crate::simd::dispatch;

/// The most rows of a chunk: a tile of them, with its part of the weight, stays in the cache.
const MAX_ROWS: usize = 512;

/// The most partial sums of the gradient of the hidden states. Each adds up a fixed range of
/// tiles, so that the sums do not depend on the number of threads.
const MAX_GROUPS: usize = 16;

/// Everything that values and gradients follow from.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(super) hidden: Rows,
    pub(super) head: Head,
    pub(super) targets: Arc<Targets>,
    pub(super) shaping: Shaping,
    pub(super) label_smoothing: f64,
    pub(super) z_loss: f64,
    /// Bytes that a chunk of logits may take.
    pub(super) budget: usize,
}

/// The gradients of a pass, in f32; those that were not wanted are missing.
#[derive(Debug, Default)]
pub(super) struct Gradients {
    /// `[tokens, d_model]`.
    pub(super) hidden: Option<Vec<f32>>,
    /// `[vocab, d_model]`.
    pub(super) weight: Option<Vec<f32>>,
    /// `[vocab]`.
    pub(super) bias: Option<Vec<f32>>,
}

/// What a pass makes, one number for each supervised row.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) losses: Vec<f64>,
    pub(super) entropies: Vec<f64>,
    pub(super) gradients: Gradients,
}

/// What is known of a row once all its tiles are summarised.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    log_sum: f64,
    loss: f64,
    entropy: f64,
}

/// Room that all chunks use in turn.
struct Room {
    /// The hidden states of the chunk's rows.
    h: Vec<f32>,
    /// The same for products of bf16 pairs.
    hidden: Option<Hidden>,
    /// One tile after the other; a single one for each thread if no gradient is wanted.
    kept: Vec<f32>,
    /// One row of them for each tile.
    stats: Vec<Stats>,
    /// A sum of gradients of hidden states for each group of tiles.
    partial: Vec<f32>,
}

impl Problem {
    /// Losses, and the gradients of `Σ coefficient(token)·loss` over the supervised tokens.
    pub(super) fn run(
        &self,
        wants: Wants,
        entropy: bool,
        coefficient: &(dyn Fn(usize) -> f32 + Sync),
    ) -> Pass {
        let (vocab, width, rows) = (self.head.vocab(), self.head.width(), self.targets.len());
        let made = |wanted: bool, len: usize| wanted.then(|| vec![0.0; len]);
        // Compact: ignored tokens have no row.
        let mut gradients = Gradients {
            hidden: made(wants.hidden, rows * width),
            weight: made(wants.weight, vocab * width),
            bias: made(wants.bias, vocab),
        };
        let size = self.chunk_rows();
        let tiles = vocab.div_ceil(TILE);
        let groups = self.groups(size);
        let mut room = Room {
            h: vec![0.0; size * width],
            hidden: None,
            kept: vec![0.0; if wants.any() { tiles * size * TILE } else { 0 }],
            stats: vec![Stats::default(); tiles * size],
            partial: vec![
                0.0;
                if wants.hidden {
                    groups * size * width
                } else {
                    0
                }
            ],
        };
        let mut found = Vec::with_capacity(rows);
        for first in (0..rows).step_by(size.max(1)) {
            let chunk = first..(first + size).min(rows);
            found.extend(self.summarise(chunk.clone(), &mut room, wants, entropy));
            if wants.any() {
                let rows = &found[chunk.clone()];
                self.differentiate(chunk, rows, &mut room, coefficient, &mut gradients);
            }
        }
        gradients.hidden = gradients.hidden.map(|hidden| self.expand(hidden));
        Pass {
            losses: found.iter().map(|row| row.loss).collect(),
            entropies: found.iter().map(|row| row.entropy).collect(),
            gradients,
        }
    }

    /// Rows per chunk: as many as the budget holds, in chunks of nearly equal size.
    fn chunk_rows(&self) -> usize {
        let rows = self.targets.len();
        let row_bytes = self.head.vocab().next_multiple_of(TILE) * size_of::<f32>();
        let most = (self.budget / row_bytes.max(1)).clamp(1, MAX_ROWS);
        rows.div_ceil(rows.div_ceil(most).max(1))
    }

    /// In how many groups the tiles add up gradients of hidden states: few enough that these
    /// take no more than a quarter of the budget.
    fn groups(&self, chunk_rows: usize) -> usize {
        let bytes = chunk_rows * self.head.width() * size_of::<f32>();
        (self.budget / 4 / bytes.max(1)).clamp(1, MAX_GROUPS)
    }

    fn keep(&self) -> Keep {
        match self.shaping.cap {
            Some(_) => Keep::Logits,
            None => Keep::Exponentials,
        }
    }

    /// The classes of a tile.
    fn classes(&self, tile: usize) -> Range<usize> {
        tile * TILE..((tile + 1) * TILE).min(self.head.vocab())
    }

    /// Where the labels of the rows lie in a tile.
    fn labels(&self, chunk: Range<usize>, classes: &Range<usize>) -> Vec<Option<usize>> {
        self.targets.classes[chunk]
            .iter()
            .map(|class| classes.contains(class).then(|| class - classes.start))
            .collect()
    }

    /// Makes a chunk's logits and what they say about each row; the logits stay in `room` if
    /// gradients are wanted.
    fn summarise(
        &self,
        chunk: Range<usize>,
        room: &mut Room,
        wants: Wants,
        entropy: bool,
    ) -> Vec<Row> {
        let (m, width) = (chunk.len(), self.head.width());
        self.gather(chunk.clone(), &mut room.h[..m * width]);
        let h = &room.h[..m * width];
        room.hidden = self.head.hidden(h);
        let hidden = room.hidden.as_ref();
        let sums = Sums {
            total: self.label_smoothing > 0.0,
            weighted: entropy,
        };
        let tile = |index: usize, z: &mut [f32], stats: &mut [Stats], block: &mut Vec<f32>| {
            let classes = self.classes(index);
            self.head
                .logits((h, hidden), classes.clone(), (z, TILE), block);
            dispatch(Summarise {
                z,
                count: classes.len(),
                labels: &self.labels(chunk.clone(), &classes),
                shaping: self.shaping,
                keep: self.keep(),
                sums,
                stats,
            });
        };
        let tiles = self.head.vocab().div_ceil(TILE);
        let stats = &mut room.stats[..tiles * m];
        if wants.any() {
            room.kept[..tiles * m * TILE]
                .par_chunks_exact_mut(m * TILE)
                .zip(stats.par_chunks_exact_mut(m))
                .enumerate()
                .for_each_init(Vec::new, |block, (index, (z, stats))| {
                    tile(index, z, stats, block);
                });
        } else {
            let own = || (vec![0.0; m * TILE], Vec::new());
            stats.par_chunks_exact_mut(m).enumerate().for_each_init(
                own,
                |(z, block), (index, stats)| {
                    tile(index, z, stats, block);
                },
            );
        }
        let stats = &*stats;
        (0..m)
            .into_par_iter()
            .map(|row| self.row(stats[row..].iter().step_by(m), entropy))
            .collect()
    }

    /// Copies the hidden states of a chunk's rows together.
    fn gather(&self, chunk: Range<usize>, h: &mut [f32]) {
        let width = self.head.width();
        let (values, stride) = (self.hidden.data::<f32>(), self.hidden.stride());
        let rows = &self.targets.rows[chunk];
        for (h, &row) in h.chunks_exact_mut(width.max(1)).zip(rows) {
            h.copy_from_slice(&values[row * stride..][..width]);
        }
        self.head.round(h);
    }

    /// Puts the tiles of one row together.
    fn row<'a>(&self, tiles: impl Iterator<Item = &'a Stats> + Clone, entropy: bool) -> Row {
        let max = tiles
            .clone()
            .map(|tile| tile.max)
            .fold(f32::NEG_INFINITY, f32::max);
        let max = f64::from(max);
        let mut row = Row::default();
        let (mut sum, mut total, mut along, mut label) = (0.0, 0.0, 0.0, 0.0);
        for tile in tiles {
            label += f64::from(tile.label);
            total += f64::from(tile.total);
            // An impossible tile adds nothing, one that is not a number spoils the sum.
            let weight = if tile.max == f32::NEG_INFINITY {
                1.0
            } else {
                (f64::from(tile.max) - max).exp()
            };
            sum += weight * f64::from(tile.sum);
            if entropy && weight > 0.0 && tile.sum > 0.0 {
                let below = f64::from(tile.max) - max;
                along += weight * (f64::from(tile.weighted) + below * f64::from(tile.sum));
            }
        }
        row.log_sum = max + sum.ln();
        row.entropy = sum.ln() - along / sum;
        let smoothing = self.label_smoothing;
        row.loss = row.log_sum - (1.0 - smoothing) * label;
        if smoothing > 0.0 {
            row.loss -= smoothing * total / self.head.vocab() as f64;
        }
        row.loss += self.z_loss * row.log_sum * row.log_sum;
        row
    }

    /// Adds a chunk's share of the gradients.
    fn differentiate(
        &self,
        chunk: Range<usize>,
        rows: &[Row],
        room: &mut Room,
        coefficient: &(dyn Fn(usize) -> f32 + Sync),
        gradients: &mut Gradients,
    ) {
        let (m, width) = (chunk.len(), self.head.width());
        let tiles = self.head.vocab().div_ceil(TILE);
        let per_group = tiles.div_ceil(self.groups(self.chunk_rows()));
        let groups = tiles.div_ceil(per_group.max(1));
        let slopes: Vec<Slope> = chunk
            .clone()
            .zip(rows)
            .map(|(index, row)| self.slope(row, coefficient(self.targets.rows[index])))
            .collect();
        let h = (&room.h[..m * width], room.hidden.as_ref());
        let kept = &room.kept[..tiles * m * TILE];
        let stats = &room.stats[..tiles * m];
        let hidden = gradients.hidden.is_some();
        let partial = &mut room.partial[..if hidden { groups * m * width } else { 0 }];
        partial.fill(0.0);

        let mut partial_parts = parts(hidden.then_some(&mut *partial), m * width);
        let mut weight_parts = parts(gradients.weight.as_deref_mut(), per_group * TILE * width);
        let mut bias_parts = parts(gradients.bias.as_deref_mut(), per_group * TILE);
        let groups: Vec<Group<'_>> = (0..groups)
            .map(|group| Group {
                tiles: group * per_group..((group + 1) * per_group).min(tiles),
                hidden: partial_parts.next(),
                weight: weight_parts.next(),
                bias: bias_parts.next(),
            })
            .collect();
        let count = groups.len();
        groups.into_par_iter().for_each_init(
            || (vec![0.0; m * TILE], Vec::new(), slopes.clone()),
            |(dz, block, slopes_here), mut group| {
                let first = self.classes(group.tiles.start).start;
                for tile in group.tiles.clone() {
                    let classes = self.classes(tile);
                    let stats = &stats[tile * m..][..m];
                    self.in_tile(&slopes, rows, stats, slopes_here);
                    dispatch(Slopes {
                        kept: &kept[tile * m * TILE..][..m * TILE],
                        count: classes.len(),
                        labels: &self.labels(chunk.clone(), &classes),
                        cap: self.shaping.cap,
                        slopes: slopes_here,
                        out: dz,
                    });
                    let place = classes.start - first..classes.end - first;
                    group.add(self, (dz, h), classes, place, block);
                }
            },
        );
        if let Some(hidden) = &mut gradients.hidden {
            add_up(
                partial,
                count,
                &mut hidden[chunk.start * width..][..m * width],
            );
        }
    }

    /// The slope of a row for a tile of logits.
    fn slope(&self, row: &Row, coefficient: f32) -> Slope {
        let outer = f64::from(coefficient) * f64::from(self.shaping.scale);
        let vocab = self.head.vocab() as f64;
        Slope {
            scale: single(outer * (1.0 + 2.0 * self.z_loss * row.log_sum)),
            shift: single(outer * self.label_smoothing / vocab),
            label: single(outer * (1.0 - self.label_smoothing)),
            log_sum: single(row.log_sum),
        }
    }

    /// The slopes for one tile, in place of those for another.
    fn in_tile(&self, slopes: &[Slope], rows: &[Row], stats: &[Stats], here: &mut [Slope]) {
        if self.keep() == Keep::Logits {
            return;
        }
        for (((here, slope), row), stats) in here.iter_mut().zip(slopes).zip(rows).zip(stats) {
            let share = (f64::from(stats.max) - row.log_sum).exp();
            here.scale = single(f64::from(slope.scale) * share);
        }
    }

    /// Rows of supervised tokens as rows of all tokens, zero elsewhere.
    fn expand(&self, compact: Vec<f32>) -> Vec<f32> {
        if self.targets.all() {
            return compact;
        }
        let width = self.head.width();
        let mut out = vec![0.0; self.targets.tokens * width];
        let rows = compact.chunks_exact(width.max(1)).zip(&self.targets.rows);
        for (from, &row) in rows {
            out[row * width..][..width].copy_from_slice(from);
        }
        out
    }
}

/// Neighbouring tiles, and the gradients to which they add.
struct Group<'a> {
    tiles: Range<usize>,
    hidden: Option<&'a mut [f32]>,
    weight: Option<&'a mut [f32]>,
    bias: Option<&'a mut [f32]>,
}

impl Group<'_> {
    /// Adds what a tile's `dz` gives; `place` is where its classes lie among the group's.
    fn add(
        &mut self,
        problem: &Problem,
        (dz, h): (&mut [f32], (&[f32], Option<&Hidden>)),
        classes: Range<usize>,
        place: Range<usize>,
        block: &mut Vec<f32>,
    ) {
        let width = problem.head.width();
        if let Some(bias) = &mut self.bias {
            let bias = &mut bias[place.clone()];
            for dz in dz.chunks_exact(TILE) {
                bias.iter_mut().zip(dz).for_each(|(sum, dz)| *sum += dz);
            }
        }
        problem.head.round(dz);
        if let Some(weight) = &mut self.weight {
            let weight = &mut weight[place.start * width..place.end * width];
            problem.head.weight_gradient((dz, TILE), h, weight);
        }
        if let Some(hidden) = &mut self.hidden {
            problem.head.pull((dz, TILE), classes, hidden, block);
        }
    }
}

/// The parts of a buffer, if there is one.
fn parts(buffer: Option<&mut [f32]>, len: usize) -> std::vec::IntoIter<&mut [f32]> {
    let parts: Vec<_> = match buffer {
        Some(buffer) => buffer.chunks_mut(len.max(1)).collect(),
        None => Vec::new(),
    };
    parts.into_iter()
}

/// Sums `count` buffers that lie one after the other, in their order.
fn add_up(buffers: &[f32], count: usize, out: &mut [f32]) {
    let len = out.len();
    out.par_chunks_mut(4096)
        .enumerate()
        .for_each(|(part, out)| {
            for buffer in 0..count {
                let from = &buffers[buffer * len + part * 4096..][..out.len()];
                out.iter_mut()
                    .zip(from)
                    .for_each(|(sum, from)| *sum += from);
            }
        });
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "rounded to the type of the gradients"
)]
fn single(value: f64) -> f32 {
    value as f32
}
