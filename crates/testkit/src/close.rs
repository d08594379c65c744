//! Comparison of numbers with messages that say where to look.

use std::fmt;

use burn::tensor::{DType, TensorData};

use crate::tol::Tolerance;

/// Something that holds numbers, with or without a shape.
pub trait Values {
    /// The shape, when there is one.
    fn shape(&self) -> Option<Vec<usize>>;
    /// All numbers in row-major order.
    fn numbers(&self) -> Vec<f64>;
}

impl Values for TensorData {
    fn shape(&self) -> Option<Vec<usize>> {
        Some(self.shape().to_vec())
    }

    fn numbers(&self) -> Vec<f64> {
        self.clone()
            .convert_dtype(DType::F64)
            .iter::<f64>()
            .collect()
    }
}

impl Values for [f32] {
    fn shape(&self) -> Option<Vec<usize>> {
        None
    }

    fn numbers(&self) -> Vec<f64> {
        self.iter().map(|&x| x.into()).collect()
    }
}

impl Values for [f64] {
    fn shape(&self) -> Option<Vec<usize>> {
        None
    }

    fn numbers(&self) -> Vec<f64> {
        self.to_vec()
    }
}

impl<T, const N: usize> Values for [T; N]
where
    [T]: Values,
{
    fn shape(&self) -> Option<Vec<usize>> {
        None
    }

    fn numbers(&self) -> Vec<f64> {
        self.as_slice().numbers()
    }
}

impl<T> Values for Vec<T>
where
    [T]: Values,
{
    fn shape(&self) -> Option<Vec<usize>> {
        None
    }

    fn numbers(&self) -> Vec<f64> {
        self.as_slice().numbers()
    }
}

/// Asserts that two sets of numbers agree to a tolerance.
///
/// # Panics
/// When shapes or lengths differ, or when any number deviates by more than the tolerance; the
/// message gives the worst element, both values, and how many deviate.
#[track_caller]
pub fn assert_close<G, E>(got: &G, expected: &E, tolerance: Tolerance, what: &str)
where
    G: Values + ?Sized,
    E: Values + ?Sized,
{
    let (got_shape, expected_shape) = (got.shape(), expected.shape());
    if let (Some(got), Some(expected)) = (&got_shape, &expected_shape) {
        assert!(
            got == expected,
            "{what}: expected shape {expected:?}, got {got:?}"
        );
    }
    let (got, expected) = (got.numbers(), expected.numbers());
    assert!(
        got.len() == expected.len(),
        "{what}: expected {} numbers, got {}",
        expected.len(),
        got.len()
    );
    let shape = got_shape
        .or(expected_shape)
        .unwrap_or_else(|| vec![got.len()]);
    if let Some(deviation) = Deviation::find(&got, &expected, tolerance, &shape) {
        panic!("{what}: {deviation}");
    }
}

/// The largest absolute difference of two sets of numbers, for reports.
///
/// # Panics
/// When their lengths differ.
#[track_caller]
pub fn max_difference<G, E>(got: &G, expected: &E) -> f64
where
    G: Values + ?Sized,
    E: Values + ?Sized,
{
    let (got, expected) = (got.numbers(), expected.numbers());
    assert!(
        got.len() == expected.len(),
        "{} numbers against {}",
        got.len(),
        expected.len()
    );
    got.iter()
        .zip(&expected)
        .map(|(g, e)| (g - e).abs())
        .fold(0.0, f64::max)
}

/// The worst of the elements that deviate too much.
struct Deviation {
    index: Vec<usize>,
    got: f64,
    expected: f64,
    allowed: f64,
    deviating: usize,
    total: usize,
}

impl Deviation {
    fn find(got: &[f64], expected: &[f64], tolerance: Tolerance, shape: &[usize]) -> Option<Self> {
        let deviating: Vec<_> = got
            .iter()
            .zip(expected)
            .map(|(&got, &expected)| (got, expected))
            .enumerate()
            .filter(|(_, (got, expected))| !tolerance.accepts(*got, *expected))
            .collect();
        // By how many times the allowance is exceeded; what is not a number is worst of all.
        let excess = |(got, expected): (f64, f64)| {
            let ratio = (got - expected).abs() / tolerance.allowed(expected);
            if ratio.is_nan() { f64::INFINITY } else { ratio }
        };
        let &(flat, (got, expected)) = deviating
            .iter()
            .max_by(|a, b| excess(a.1).total_cmp(&excess(b.1)))?;
        Some(Self {
            index: unravel(flat, shape),
            got,
            expected,
            allowed: tolerance.allowed(expected),
            deviating: deviating.len(),
            total: shape.iter().product(),
        })
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            got,
            expected,
            allowed,
            deviating,
            total,
        } = self;
        write!(
            f,
            "{deviating} of {total} numbers deviate, worst at {index:?}: expected {expected}, \
             got {got}, off by {:.3e} where {allowed:.3e} is allowed",
            (got - expected).abs()
        )
    }
}

/// The index in each dimension of the element at a flat position.
fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<_> = shape
        .iter()
        .rev()
        .map(|&size| {
            let i = flat % size;
            flat /= size;
            i
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use half::bf16;

    use super::*;

    fn message(check: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(check)).unwrap_err();
        *panic.downcast::<String>().unwrap()
    }

    #[test]
    fn message_names_the_worst_element_both_values_and_the_count() {
        let got = TensorData::from([[1.0_f32, 2.0, 3.0], [4.0, 5.5, 6.25]]);
        let expected = TensorData::from([[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let tolerance = Tolerance::rel_abs(0.0, 0.125);
        assert_eq!(
            message(|| assert_close(&got, &expected, tolerance, "logits")),
            "logits: 2 of 6 numbers deviate, worst at [1, 1]: expected 5, got 5.5, \
             off by 5.000e-1 where 1.250e-1 is allowed"
        );
    }

    #[test]
    fn not_a_number_is_the_worst_of_all() {
        let text = message(|| {
            assert_close(
                &[9.0_f32, f32::NAN],
                &[1.0_f32, 1.0],
                Tolerance::rel_abs(0.1, 0.1),
                "x",
            );
        });
        assert!(text.contains("worst at [1]: expected 1, got NaN"), "{text}");
    }

    #[test]
    fn shapes_and_lengths_must_agree() {
        let row = TensorData::from([[1.0_f32, 2.0]]);
        let column = TensorData::from([[1.0_f32], [2.0]]);
        let exact = Tolerance::exact();
        let text = message(|| assert_close(&row, &column, exact, "x"));
        assert_eq!(text, "x: expected shape [2, 1], got [1, 2]");
        let text = message(|| assert_close(&row, &[1.0_f32], exact, "x"));
        assert_eq!(text, "x: expected 1 numbers, got 2");
    }

    #[test]
    fn element_types_may_differ() {
        let got = TensorData::from([bf16::from_f32(1.5), bf16::from_f32(-2.0)]);
        assert_close(&got, &[1.5_f32, -2.0], Tolerance::exact(), "bf16");
        assert_close(&vec![1.5_f64, -2.0], &got, Tolerance::exact(), "f64");
        assert_eq!(max_difference(&got, &[1.0_f32, -1.75]), 0.5);
    }
}
