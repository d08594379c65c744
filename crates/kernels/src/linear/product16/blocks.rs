//! Cache blocking and threads.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::left::Left;
use super::pack_left::PackedLeft;
use super::pack_right::{self, Decoded};
use super::tile::{self, HEIGHT, Kind, Line, Span, Target, WIDTH};
use super::{Orientation, Output, kept};
use crate::cpu::{Decode, Rows, Shared};
use crate::simd::Avx512Bf16;

/// The most words of a row of a packed block of the right operand.
const WORDS: usize = 512;

/// The most panels of a packed block of the right operand: with [`WORDS`], 512 KiB.
const PANELS: usize = 8;

/// The most words of the left operand that are packed at a time, 16 MiB.
const LEFT: usize = 4 << 20;

/// The most words of a row of the left operand that are packed at a time.
const LEFT_WORDS: usize = 8 * WORDS;

/// Multiplications from which a product is worth waking the other threads.
const PARALLEL: usize = 64 * 64 * 64;

/// What a thread packs into, kept between products.
#[derive(Default)]
struct Buffers {
    panels: Vec<Line>,
    /// Panels of the second right operand.
    more: Vec<Line>,
    decoded: Decoded,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// A second product that is added to the first in the same pass.
pub(super) struct More<'a> {
    pub(super) left: PackedLeft,
    /// Lies as the first right operand does.
    pub(super) right: &'a Rows,
}

/// A product in the making.
struct Product<'a, D> {
    right: &'a D,
    more: Option<&'a More<'a>>,
    kind: Kind,
    orientation: Orientation,
    bias: Option<&'a [f32]>,
    out: Output,
    /// f32 sums of the rows at hand, unless `out` holds f32 itself or all depths make one block.
    partial: Shared<f32>,
    cols: usize,
    depth: usize,
    /// The distance between neighbouring rows of f32 sums.
    stride: usize,
    /// Whether the product is added to what `out` holds.
    add: bool,
}

/// Writes `left` times `right` to `out`, or adds it, on the calling thread.
///
/// # Safety
/// `out` must be valid for writing, and reading if `add`, as many rows as `left` has, `stride`
/// apart, of as many columns as the product has; and the operands must fit each other.
pub(super) unsafe fn on_this_thread<D: Decode>(
    simd: Avx512Bf16,
    left: &PackedLeft,
    right: &D,
    orientation: Orientation,
    (out, stride): (*mut f32, usize),
    add: bool,
) {
    let (cols, depth) = match (orientation, right.shape()) {
        (Orientation::Rows, [cols, depth]) | (Orientation::Columns, [depth, cols]) => (cols, depth),
    };
    let product = Product {
        right,
        more: None,
        kind: left.kind(),
        orientation,
        bias: None,
        out: Output::F32(Shared(out)),
        partial: Shared(std::ptr::null_mut()),
        cols,
        depth,
        stride,
        add,
    };
    for first in (0..cols).step_by(PANELS * WIDTH) {
        let part = first..(first + PANELS * WIDTH).min(cols);
        // SAFETY: passed on unchanged.
        unsafe { product.part(simd, left, 0, &(0..depth), part, 0..left.panels()) };
    }
}

/// Writes `left` times `right`, and what `more` adds, to `out`.
///
/// # Safety
/// As [`super::multiply`].
///
/// # Panics
/// When there is more, and `left` has more than fits [`whole`].
pub(super) unsafe fn product<D: Decode>(
    simd: Avx512Bf16,
    kind: Kind,
    left: &Left<'_>,
    (right, orientation): (&D, Orientation),
    more: Option<&More<'_>>,
    bias: Option<&[f32]>,
    out: Output,
) {
    let cols = match orientation {
        Orientation::Rows => right.shape()[0],
        Orientation::Columns => right.shape()[1],
    };
    let depth = left.depth;
    let mut partial = Vec::<f32>::new();
    let product = |partial: &mut Vec<f32>, rows: usize| {
        if matches!(out, Output::Bf16(_)) && kind.words(depth) > WORDS {
            partial.reserve_exact(rows * cols);
        }
        Product {
            right,
            more,
            kind,
            orientation,
            bias,
            out,
            partial: Shared(partial.as_mut_ptr()),
            cols,
            depth,
            stride: cols,
            add: false,
        }
    };
    let parallel = left.rows * cols * depth >= PARALLEL;
    if whole(kind, left) {
        let product = product(&mut partial, left.rows);
        let packed = kept::packed(simd, kind, left);
        // SAFETY: passed on unchanged.
        unsafe { product.add(simd, &packed, &(0..left.rows), &(0..depth), parallel) };
        return;
    }
    assert!(more.is_none(), "product: too large for more");
    let left_words = kind.words(depth).clamp(1, LEFT_WORDS);
    let (left_rows, left_depths) = (LEFT / left_words, left_words * kind.per_word());
    let product = product(&mut partial, left.rows.min(left_rows));
    for row in (0..left.rows).step_by(left_rows) {
        let rows = row..(row + left_rows).min(left.rows);
        let mut start = 0;
        loop {
            let depths = start..(start + left_depths).min(depth);
            let packed = PackedLeft::new(simd, kind, left, rows.clone(), depths.clone());
            // SAFETY: passed on unchanged.
            unsafe { product.add(simd, &packed, &rows, &depths, parallel) };
            start = depths.end;
            if start >= depth {
                break;
            }
        }
    }
}

/// Whether the left operand is packed as a whole.
pub(super) fn whole(kind: Kind, left: &Left<'_>) -> bool {
    let words = kind.words(left.depth);
    words <= LEFT_WORDS && left.rows * words.max(1) <= LEFT
}

impl<D: Decode> Product<'_, D> {
    /// Adds the products of the packed rows and depths, on all threads if `parallel`.
    ///
    /// # Safety
    /// As [`super::multiply`].
    unsafe fn add(
        &self,
        simd: Avx512Bf16,
        left: &PackedLeft,
        rows: &Range<usize>,
        depths: &Range<usize>,
        parallel: bool,
    ) {
        let threads = if parallel {
            rayon::current_num_threads()
        } else {
            1
        };
        let panels = self.cols.div_ceil(WIDTH);
        // As many parts of the columns as threads, or a multiple; if there are too few columns,
        // the rows are cut as well.
        let parts = panels
            .div_ceil(PANELS)
            .next_multiple_of(threads)
            .min(panels)
            .max(1);
        let cuts = threads
            .div_ceil(parts)
            .min(left.panels().div_ceil(4))
            .max(1);
        let task = |index: usize| {
            let (part, cut) = (index % parts, index / parts);
            let first = part * panels / parts * WIDTH;
            let last = ((part + 1) * panels / parts * WIDTH).min(self.cols);
            let heights = cut * left.panels() / cuts..(cut + 1) * left.panels() / cuts;
            // SAFETY: the parts are disjoint; the rest is passed on unchanged.
            unsafe { self.part(simd, left, rows.start, depths, first..last, heights) };
        };
        if parts * cuts == 1 || !parallel {
            (0..parts * cuts).for_each(task);
        } else {
            (0..parts * cuts)
                .into_par_iter()
                .with_max_len(1)
                .for_each(task);
        }
    }

    /// The columns `cols` of the rows of the left panels `heights`.
    ///
    /// # Safety
    /// As [`super::multiply`]; no other thread may write the same part.
    unsafe fn part(
        &self,
        _simd: Avx512Bf16,
        left: &PackedLeft,
        row: usize,
        depths: &Range<usize>,
        cols: Range<usize>,
        heights: Range<usize>,
    ) {
        // Blocks of about equal size, a whole number of cache lines.
        let kind = self.kind;
        let blocks = kind.words(depths.len()).div_ceil(WORDS).max(1);
        let step = depths.len().div_ceil(blocks).next_multiple_of(64);
        let count = cols.len().div_ceil(WIDTH);
        BUFFERS.with_borrow_mut(|buffers| {
            let Buffers {
                panels,
                more,
                decoded,
            } = buffers;
            let mut second = (0, std::ptr::null_mut());
            if let Some(More { right, .. }) = self.more {
                let depth = match self.orientation {
                    Orientation::Rows => right.width(),
                    Orientation::Columns => right.rows(),
                };
                let words = kind.words(depth);
                more.reserve(count * 2 * words);
                second = (words, more.as_mut_ptr());
                let (way, depths, to) = (self.orientation, 0..depth, second.1);
                // SAFETY: the token proves the instructions; the buffer has room for the panels.
                unsafe { pack_right::pack(kind, *right, way, &cols, &depths, decoded, to) };
            }
            for block in 0..blocks {
                let start = (depths.start + block * step).min(depths.end);
                let block = start..(start + step).min(depths.end);
                let words = kind.words(block.len());
                panels.reserve(count * 2 * words);
                let packed = panels.as_mut_ptr();
                let first = kind.words(block.start - depths.start);
                let way = self.orientation;
                // SAFETY: the token proves the instructions; the buffer has room for the panels.
                unsafe { pack_right::pack(kind, self.right, way, &cols, &block, decoded, packed) };
                let more = self.more.filter(|_| block.end == self.depth);
                for index in heights.clone() {
                    let panel = left.panel(index);
                    let from = left.words(&panel, first);
                    let more = more.map(|more| more.left.words(&panel, 0));
                    // The next panel comes from afar; each tile asks for its share of it.
                    let next = left.panel((index + 1).min(left.panels() - 1));
                    let ahead = left.words(&next, first);
                    let share = (next.len() * words).div_ceil(count);
                    for (at, col) in cols.clone().step_by(WIDTH).enumerate() {
                        let width = WIDTH.min(cols.end - col);
                        // SAFETY: panels and target lie inside the buffers and the output.
                        unsafe {
                            let to = Target {
                                ahead: ahead.wrapping_add(at * share),
                                ..self.target(row, panel.start, col, width, &block)
                            };
                            let span = Span {
                                words,
                                left: from,
                                right: packed.add(at * 2 * words),
                            };
                            let more = more.map_or(Span::EMPTY, |left| Span {
                                words: second.0,
                                left,
                                right: second.1.add(at * 2 * second.0),
                            });
                            tile::multiply(kind, panel.len(), [span, more], to);
                        }
                    }
                }
            }
        });
    }

    /// Where the tile at `(row + within, col)` goes after the depths `block`.
    ///
    /// # Safety
    /// The tile must lie inside the product.
    unsafe fn target(
        &self,
        row: usize,
        within: usize,
        col: usize,
        cols: usize,
        block: &Range<usize>,
    ) -> Target {
        let last = block.end == self.depth;
        let at = (row + within) * self.stride + col;
        // SAFETY: the caller vouches for the tile; the partial sums are used where they exist.
        let (sums, rounded) = unsafe {
            match self.out {
                Output::F32(out) => (out.at(at), None),
                Output::Bf16(out) => {
                    let sums = self.partial.0.wrapping_add(within * self.cols + col);
                    (sums, last.then(|| out.at(at)))
                }
            }
        };
        let bias = self.bias.filter(|_| last);
        Target {
            sums,
            rounded,
            stride: self.stride,
            bias: bias.map(|bias| bias[col..].as_ptr()),
            cols,
            accumulate: self.add || block.start > 0,
            ahead: std::ptr::null(),
        }
    }
}

const _: () = assert!(LEFT / LEFT_WORDS >= HEIGHT && WORDS.is_multiple_of(64));
