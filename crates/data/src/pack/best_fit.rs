//! Best-fit decreasing: the longest example first, each into the fullest row that has room.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::Row;
use crate::encode::EncodedExample;
use crate::error::{Error, Result};

/// Distributes examples of the given lengths over rows of `max_length` tokens; a row is a list of indices.
///
/// Examples are taken from the longest to the shortest, those of equal length in their order, and each goes to the
/// row with the least room that is enough, the oldest of those with equal room. Rows come in the order in which they
/// were opened. Time is `O(n log n)`; no example is split.
///
/// The number of rows is at most `11/9` of the least possible one, plus 4.
///
/// # Errors
/// [`Error::ExampleTooLong`] for an example that no row can hold.
///
/// # Source
/// - Johnson et al. 1974, Worst-case performance bounds for simple one-dimensional packing algorithms, SIAM Journal on
///   Computing 3(4)
/// - Ding et al. 2024, Fewer Truncations Improve Language Modeling, arXiv:2404.10830, §3
/// - reference: trl `data_utils.py::pack_dataset` with strategy `bfd`
/// - differs: there, an example above the limit is cut
///
/// # Examples
/// ```
/// # fn main() -> flametune_data::Result<()> {
/// let rows = flametune_data::best_fit_decreasing(&[2, 7, 3, 5, 1], 10)?;
/// assert_eq!(rows, [vec![1, 2], vec![3, 0, 4]]);
/// # Ok(())
/// # }
/// ```
pub fn best_fit_decreasing(lengths: &[usize], max_length: usize) -> Result<Vec<Vec<usize>>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| Reverse(lengths[index]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // The room that each row has left, with its position.
    let mut rooms: BTreeSet<(usize, usize)> = BTreeSet::new();
    for index in order {
        let tokens = lengths[index];
        if tokens > max_length {
            return Err(Error::ExampleTooLong {
                index,
                tokens,
                field: "max_length",
                limit: max_length,
            });
        }
        let (room, row) = match rooms.range((tokens, 0)..).next().copied() {
            Some(found) => {
                rooms.remove(&found);
                found
            }
            None => {
                rows.push(Vec::new());
                (max_length, rows.len() - 1)
            }
        };
        rows[row].push(index);
        rooms.insert((room - tokens, row));
    }
    Ok(rows)
}

/// Packs examples into rows of at most `max_length` tokens with [`best_fit_decreasing`].
///
/// # Errors
/// As [`best_fit_decreasing`].
pub fn pack(examples: &[EncodedExample], max_length: usize) -> Result<Vec<Row>> {
    let lengths: Vec<usize> = examples.iter().map(EncodedExample::len).collect();
    let rows = best_fit_decreasing(&lengths, max_length)?;
    let row =
        |indices: Vec<usize>| Row::from_examples(indices.iter().map(|&index| &examples[index]));
    Ok(rows.into_iter().map(row).collect())
}
