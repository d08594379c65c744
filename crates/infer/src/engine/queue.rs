//! Whose turn it is.

use std::collections::HashMap;

use super::sequence::Sequence;

/// The place in `waiting` of the sequence that should begin next, of those that `may`: the highest
/// priority, then the tenant of whom the fewest sequences run, then the earliest.
pub(super) fn next(
    waiting: &[Sequence],
    running: &[Sequence],
    may: impl Fn(usize, &Sequence) -> bool,
) -> Option<usize> {
    let mut shares: HashMap<&str, usize> = HashMap::new();
    for sequence in running {
        *shares.entry(&sequence.tenant).or_default() += 1;
    }
    let share = |sequence: &Sequence| shares.get(sequence.tenant.as_str()).copied().unwrap_or(0);
    waiting
        .iter()
        .enumerate()
        .filter(|(place, sequence)| may(*place, sequence))
        .min_by_key(|(_, sequence)| {
            let urgency = std::cmp::Reverse(sequence.priority);
            (urgency, share(sequence), sequence.arrival)
        })
        .map(|(place, _)| place)
}

/// The running sequence that should make room for others: the lowest priority, then the latest.
pub(super) fn victim(running: &[Sequence]) -> Option<usize> {
    running
        .iter()
        .enumerate()
        .max_by_key(|(_, sequence)| (std::cmp::Reverse(sequence.priority), sequence.arrival))
        .map(|(place, _)| place)
}
