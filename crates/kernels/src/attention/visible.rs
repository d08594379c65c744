use std::collections::HashMap;
use std::ops::Range;

use super::AttentionMask;

/// The keys that a query sees: all of `keys`, or some of them if there are gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visible {
    pub(super) keys: Range<usize>,
    /// Whether keys inside the range are hidden, because segments are interleaved.
    pub(super) gaps: bool,
}

/// What every query of every batch row sees, in that order.
pub(super) fn visible(
    mask: &AttentionMask,
    batch: usize,
    q_len: usize,
    k_len: usize,
) -> Vec<Visible> {
    let mut all = Vec::with_capacity(batch * q_len);
    for row in 0..batch {
        let segments = mask.segments().map(|rows| rows[row].as_slice());
        let spans = segments.map(|segments| spans(&segments[..k_len.min(segments.len())]));
        all.extend((0..q_len).map(|query| {
            let slot = mask.query_start() + query;
            let mut keys = 0..k_len;
            if mask.is_causal() {
                keys.end = keys.end.min(slot + 1);
            }
            if let Some(window) = mask.window() {
                keys.start = (slot + 1).saturating_sub(window);
            }
            let mut gaps = false;
            if let (Some(segments), Some(spans)) = (segments, &spans) {
                let segment = segments.get(slot).copied().unwrap_or(0);
                let span = spans.get(&segment).cloned().unwrap_or_default();
                keys = keys.start.max(span.slots.start)..keys.end.min(span.slots.end);
                gaps = span.slots.len() != span.count;
            }
            if keys.is_empty() {
                Visible {
                    keys: 0..0,
                    gaps: false,
                }
            } else {
                Visible { keys, gaps }
            }
        }));
    }
    all
}

/// Where a segment lies.
#[derive(Debug, Clone, Default)]
struct Span {
    slots: Range<usize>,
    count: usize,
}

/// The span of every segment id but 0.
fn spans(segments: &[u32]) -> HashMap<u32, Span> {
    let mut spans = HashMap::<u32, Span>::new();
    for (slot, &segment) in segments
        .iter()
        .enumerate()
        .filter(|(_, segment)| **segment != 0)
    {
        let span = spans.entry(segment).or_insert(Span {
            slots: slot..slot,
            count: 0,
        });
        span.slots.end = slot + 1;
        span.count += 1;
    }
    spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(mask: &AttentionMask, batch: usize, q_len: usize, k_len: usize) {
        let all = visible(mask, batch, q_len, k_len);
        for row in 0..batch {
            for query in 0..q_len {
                let Visible { keys, gaps } = &all[row * q_len + query];
                for key in 0..k_len {
                    let inside = keys.contains(&key);
                    let seen = mask.allows(row, query, key);
                    assert!(
                        inside || !seen,
                        "{mask:?}: {query} sees {key} outside {keys:?}"
                    );
                    assert!(
                        seen || !inside || *gaps,
                        "{mask:?}: {query} does not see {key}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn ranges_agree_with_the_rule(
            causal: bool,
            start in 0usize..6,
            window in proptest::option::of(0usize..8),
            segments in proptest::option::of(proptest::collection::vec(
                proptest::collection::vec(0u32..4, 0..14), 2)),
            q_len in 1usize..7,
            k_len in 0usize..12,
        ) {
            let mut mask = if causal {
                AttentionMask::causal(start)
            } else {
                AttentionMask::bidirectional()
            };
            if let Some(window) = window {
                mask = mask.with_window(window);
            }
            if let Some(segments) = segments {
                mask = mask.with_segments(segments);
            }
            check(&mask, 2, q_len, k_len);
        }
    }
}
