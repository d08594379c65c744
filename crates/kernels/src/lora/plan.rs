//! Which rows use which adapter, cut into blocks.

use std::ops::Range;

use super::LoraSegment;
use super::dropout::Mask;

/// The most rows that are worked on at a time: with their inputs and outputs they stay in the
/// cache. A multiple of the rows of every instruction set's tile.
pub(super) const BLOCK: usize = 48;

/// The most partial sums of an adapter's gradients. Each adds up a fixed range of rows, so that
/// the sums do not depend on the number of threads.
const MAX_GROUPS: usize = 8;

/// All that the passes need to know besides tensors.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) segments: Vec<Segment>,
}

/// The rows of one adapter, and where its factors are among those of all.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its place among the segments.
    pub(super) index: usize,
    /// Blocks of rows, in order.
    pub(super) blocks: Vec<Range<usize>>,
    pub(super) ranks: Range<usize>,
    pub(super) scaling: f32,
    pub(super) mask: Option<Mask>,
}

impl Plan {
    pub(super) fn new(segments: &[LoraSegment]) -> Self {
        let mut first = 0;
        let segments = segments
            .iter()
            .enumerate()
            .map(|(index, LoraSegment { rows, factors })| {
                let r = factors.a.dims()[0];
                let dropout = factors.dropout.filter(|dropout| dropout.p > 0.0);
                first += r;
                #[expect(clippy::cast_possible_truncation, reason = "a factor of f32 products")]
                let scaling = factors.scaling as f32;
                Segment {
                    index,
                    blocks: rows.iter().cloned().flat_map(blocks).collect(),
                    ranks: first - r..first,
                    scaling,
                    mask: dropout.map(Mask::new),
                }
            })
            .collect();
        Self { segments }
    }

    /// The largest rank.
    pub(super) fn rank(&self) -> usize {
        let ranks = self.segments.iter().map(|segment| segment.ranks.len());
        ranks.max().unwrap_or(0)
    }
}

impl Segment {
    /// Whether the blocks are all rows from the first to the last.
    pub(super) fn covers(&self, rows: usize) -> bool {
        let mut end = 0;
        let follows = |block: &Range<usize>| {
            let follows = block.start == end;
            end = block.end;
            follows
        };
        let neighbours = self.blocks.iter().all(follows);
        neighbours && end == rows
    }

    /// The blocks in groups of neighbours, each of about the same number of rows.
    pub(super) fn groups(&self) -> Vec<&[Range<usize>]> {
        let per_group = self.blocks.len().div_ceil(MAX_GROUPS).max(1);
        self.blocks.chunks(per_group).collect()
    }
}

/// A range in blocks.
fn blocks(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(BLOCK)
        .map(move |first| first..(first + BLOCK).min(end))
}
