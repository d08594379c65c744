//! The mean of f32 numbers as torch computes it.

/// The lanes of torch's vectors on x86: its sum is compiled for AVX2 at most.
const LANES: usize = 8;

/// Vectors that are summed side by side.
const SIDE_BY_SIDE: usize = 4;

/// Partial sums of this many sizes, so that small numbers are not added to large sums.
const LEVELS: usize = 4;

/// One vector for each of the sums side by side.
type Row<const V: usize> = [[f32; V]; SIDE_BY_SIDE];

/// The mean of at least one number, bit for bit that of `torch.mean` on one thread of x86.
///
/// The order of additions is part of bitsandbytes' format in so far as the offset of double
/// quantization depends on it. torch uses several threads, and with them another order, from
/// 32,768 numbers on.
///
/// # Source
/// - reference: torch `aten/src/ATen/native/cpu/SumKernel.cpp::cascade_sum`
pub(crate) fn torch_mean(numbers: &[f32]) -> f32 {
    let sum = if numbers.len() < LANES {
        cascade_sum::<1>(numbers)
    } else {
        cascade_sum::<LANES>(numbers)
    };
    sum / numbers.len() as f32
}

fn cascade_sum<const V: usize>(numbers: &[f32]) -> f32 {
    let (vectors, rest) = numbers.as_chunks::<V>();
    let (rows, last) = vectors.as_chunks::<SIDE_BY_SIDE>();
    let mut sums = sum_rows(rows);
    for vector in last {
        add(&mut sums[0], vector);
    }
    let [mut sum, others @ ..] = sums;
    for other in &others {
        add(&mut sum, other);
    }
    rest.iter().chain(&sum).sum()
}

/// Sums rows in runs, runs of runs, and so on.
fn sum_rows<const V: usize>(rows: &[Row<V>]) -> Row<V> {
    let ceil_log2 = rows.len().max(1).next_power_of_two().trailing_zeros();
    let level_bits = (ceil_log2 / 4).max(4);
    let run = 1_usize << level_bits;
    let mut levels = [[[0.0; V]; SIDE_BY_SIDE]; LEVELS];
    for (index, rows) in rows.chunks(run).enumerate() {
        for row in rows {
            add_rows(&mut levels[0], row);
        }
        if rows.len() < run {
            break;
        }
        let mut runs = index + 1;
        for level in 1..LEVELS {
            let lower = std::mem::replace(&mut levels[level - 1], [[0.0; V]; SIDE_BY_SIDE]);
            add_rows(&mut levels[level], &lower);
            if !runs.is_multiple_of(run) {
                break;
            }
            runs /= run;
        }
    }
    let [mut sums, others @ ..] = levels;
    for other in &others {
        add_rows(&mut sums, other);
    }
    sums
}

fn add_rows<const V: usize>(sums: &mut Row<V>, row: &Row<V>) {
    for (sum, vector) in sums.iter_mut().zip(row) {
        add(sum, vector);
    }
}

fn add<const V: usize>(sum: &mut [f32; V], vector: &[f32; V]) {
    for (sum, x) in sum.iter_mut().zip(vector) {
        *sum += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_count_once() {
        // Sums of small integers are exact in any order.
        for n in [
            1_u16, 2, 7, 8, 9, 31, 32, 33, 511, 512, 513, 8191, 8192, 8193,
        ] {
            let numbers: Vec<f32> = (1..=n).map(f32::from).collect();
            if n < 5000 {
                assert_eq!(torch_mean(&numbers), (f32::from(n) + 1.0) / 2.0, "{n}");
            }
            assert_eq!(torch_mean(&vec![0.5; n.into()]), 0.5, "{n}");
        }
    }

    #[test]
    fn the_mean_of_many_is_close_to_the_exact_one() {
        let numbers: Vec<f32> = (0..300_000).map(|i| (i as f32 * 0.1).sin() + 2.0).collect();
        let exact = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / 300_000.0;
        assert!((f64::from(torch_mean(&numbers)) - exact).abs() < 1e-6);
    }
}
