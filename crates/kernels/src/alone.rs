//! Products whose rows know nothing of each other.

use std::cell::Cell;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with products that give each row the same numbers, to the bit, whatever other rows
/// there are.
///
/// Otherwise products choose their blocks, and with them the order of their sums, by the number of
/// rows. Inside `f` many rows are met like few, eight at a time and each in one fixed order, which
/// costs most where there are many. It holds for what is called on this thread; on other devices
/// than the CPU it changes nothing.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use flametune_kernels::{linear, rows_alone};
///
/// let device = Device::flex();
/// let x = Tensor::<2>::random([20, 64], Distribution::Default, &device);
/// let weight = Tensor::<2>::random([48, 64], Distribution::Default, &device);
/// rows_alone(|| {
///     let all = linear(x.clone(), weight.clone(), None).narrow(0, 7, 1);
///     let one = linear(x.narrow(0, 7, 1), weight, None);
///     assert_eq!(all.into_data(), one.into_data());
/// });
/// ```
pub fn rows_alone<R>(f: impl FnOnce() -> R) -> R {
    /// Puts the old value back, also when `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _restore = Restore(ALONE.replace(true));
    f()
}

/// Whether this thread is inside [`rows_alone`].
pub(crate) fn is_alone() -> bool {
    ALONE.get()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor};

    use super::*;
    use crate::packed::tests::{kinds, random_weight};
    use crate::sample::tensor;
    use crate::{
        LoraBase, LoraFactors, LoraSegment, Precision, linear_with, lora_segmented, packed_linear,
    };

    const ROWS: usize = 45;

    /// Checks that each row comes out of all rows, of some and of itself alone with the same bits.
    fn check(what: &str, d_in: usize, product: impl Fn(Tensor<2>, usize) -> Tensor<2>) {
        let x = tensor([ROWS, d_in], 1, &Device::flex());
        let numbers = |y: Tensor<2>| y.into_data().convert::<f32>().try_to_vec::<f32>().unwrap();
        rows_alone(|| {
            let all = numbers(product(x.clone(), 0));
            let width = all.len() / ROWS;
            for count in [1, 2, 3, 5, 8, 9, 17, 33] {
                for first in (0..ROWS).step_by(count) {
                    let count = count.min(ROWS - first);
                    let some = numbers(product(x.clone().narrow(0, first, count), first));
                    let expected = &all[first * width..][..count * width];
                    assert_eq!(some, expected, "{what}: {count} rows from {first} on");
                }
            }
        });
        assert!(!is_alone());
    }

    #[test]
    fn no_product_sees_other_rows() {
        let device = Device::flex();
        for precision in [Precision::Full, Precision::Bf16] {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let what = format!("{dtype:?} {precision:?}");
                let weight = tensor([130, 70], 2, &device).cast(dtype);
                let bias = tensor([130], 3, &device);
                check(&what, 70, |x, _| {
                    linear_with(x, weight.clone(), Some(bias.clone()), precision)
                });
                let turned = tensor([70, 130], 2, &device).cast(dtype).transpose();
                check(&format!("{what}, turned"), 70, |x, _| {
                    linear_with(x, turned.clone(), None, precision)
                });
            }
            let weight = tensor([130, 70], 2, &device).cast(DType::BF16);
            check(&format!("bf16 rows {precision:?}"), 70, |x, _| {
                linear_with(x.cast(DType::BF16), weight.clone(), None, precision)
            });
            for kind in kinds(32) {
                let weight = random_weight([96, 64], kind, 4, &device);
                check(&format!("{kind:?} {precision:?}"), 64, |x, _| {
                    packed_linear(x, &weight, None, precision)
                });
            }
        }
    }

    #[test]
    fn adapters_add_the_same_to_a_row_in_any_company() {
        let device = Device::flex();
        let weight = tensor([90, 70], 2, &device);
        let adapters: Vec<LoraFactors> = [3, 16, 8]
            .into_iter()
            .enumerate()
            .map(|(seed, r)| LoraFactors {
                a: tensor([r, 70], 10 + seed as u64, &device),
                b: tensor([90, r], 20 + seed as u64, &device),
                scaling: 0.5,
                dropout: None,
            })
            .collect();
        // Rows in runs of seven use one adapter after the other, and none.
        check("lora", 70, |x, first| {
            let rows = first..first + x.dims()[0];
            let segment = |(index, factors): (usize, &LoraFactors)| LoraSegment {
                rows: rows
                    .clone()
                    .filter(|row| row / 7 % 4 == index)
                    .map(|row| row - first..row - first + 1)
                    .collect(),
                factors: factors.clone(),
            };
            let segments: Vec<LoraSegment> = adapters.iter().enumerate().map(segment).collect();
            let segments = segments
                .into_iter()
                .filter(|s| !s.rows.is_empty())
                .collect();
            let base = LoraBase::Dense {
                weight: weight.clone(),
                bias: None,
                precision: Precision::Full,
            };
            lora_segmented(x, base, segments)
        });
    }
}
