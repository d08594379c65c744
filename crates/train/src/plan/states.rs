//! The averages of the optimizer.

use crate::optim::{BLOCK_SIZE_8BIT, MIN_8BIT_SIZE, Rule};

/// The bytes of the averages of tensors of these sizes, each size with its count.
///
/// AdamW keeps two averages for every parameter, Lion one: 4 bytes each, or in eight bits
/// `n + 4·⌈n/256⌉` for a tensor of `n ≥ 4096` numbers.
pub(super) fn bytes(rule: &Rule, sizes: &[(u64, u64)]) -> u64 {
    let (averages, eight_bit) = match *rule {
        Rule::AdamW { eight_bit, .. } => (2, eight_bit),
        Rule::Lion { eight_bit, .. } => (1, eight_bit),
    };
    let tensor = |len: u64| {
        if eight_bit && len >= MIN_8BIT_SIZE as u64 {
            len + 4 * len.div_ceil(BLOCK_SIZE_8BIT as u64)
        } else {
            4 * len
        }
    };
    let bytes = sizes
        .iter()
        .map(|(len, count)| averages * count * tensor(*len));
    bytes.sum()
}
