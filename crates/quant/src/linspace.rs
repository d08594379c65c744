//! Evenly spaced numbers, rounded as torch rounds them.

/// `count` evenly spaced f32 numbers from `start` to `end`, bit for bit those of `torch.linspace`.
///
/// The first half is counted from `start`, the second from `end`, each number with one rounding.
/// `count` is at least 2.
pub(crate) fn linspace(start: f32, end: f32, count: u16) -> Vec<f32> {
    let step = (end - start) / f32::from(count - 1);
    (0..count)
        .map(|i| {
            if i < count / 2 {
                step.mul_add(f32::from(i), start)
            } else {
                (-step).mul_add(f32::from(count - 1 - i), end)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_and_the_middle_are_exact() {
        assert_eq!(linspace(-1.0, 1.0, 5), [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(linspace(0.1, 1.0, 2), [0.1, 1.0]);
    }
}
