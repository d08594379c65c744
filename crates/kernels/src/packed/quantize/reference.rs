use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{CodeFormat, LEAST_ABSMAX};

/// The packed codes in plain tensor operations: the definition of correct.
pub(super) fn codes(
    numbers: Tensor<2>,
    absmax: &Tensor<1>,
    block_size: usize,
    format: &CodeFormat,
) -> Tensor<1, Int> {
    let [d_out, d_in] = numbers.dims();
    let numel = d_out * d_in;
    let numbers = numbers.reshape([numel]);
    let full = numel - numel % block_size;
    let spread = |of_block: Tensor<1>| {
        let [blocks] = of_block.dims();
        let spread = of_block.reshape([blocks, 1]).expand([blocks, block_size]);
        spread.reshape([blocks * block_size]).narrow(0, 0, numel)
    };
    match format {
        CodeFormat::FourBit { codebook } => {
            let divisor = absmax.clone().clamp_min(LEAST_ABSMAX);
            let scaled = numbers.clone() * spread(divisor.clone().recip());
            let scaled = if full < numel {
                let divided = numbers / spread(divisor);
                let rest = divided.narrow(0, full, numel - full);
                if full == 0 {
                    rest
                } else {
                    Tensor::cat(vec![scaled.narrow(0, 0, full), rest], 0)
                }
            } else {
                scaled
            };
            pack(nearest(scaled, codebook), &[4, 0, 12, 8, 20, 16, 28, 24])
        }
        CodeFormat::Int8 => {
            let scale = spread(absmax.ones_like() * 127.0 / absmax.clone());
            let ones = absmax.clone().equal_elem(0.0).float();
            let tiny = numbers.clone() / spread(absmax.clone() + ones) * 127.0;
            let large = scale
                .clone()
                .abs()
                .greater_elem(f32::MAX)
                .bool_or(scale.clone().is_nan());
            let scaled = (numbers * scale).mask_where(large, tiny);
            let codes = scaled.round().int();
            let bytes = codes.clone() + codes.lower_elem(0).int() * 256;
            pack(bytes, &[0, 8, 16, 24])
        }
    }
}

/// The code of the entry nearest to each number.
fn nearest(numbers: Tensor<1>, codebook: &Tensor<1>) -> Tensor<1, Int> {
    let ([len], device) = (numbers.dims(), numbers.device());
    let column = codebook.clone().reshape([16, 1]).expand([16, 16]);
    let row = codebook.clone().reshape([1, 16]).expand([16, 16]);
    // Whether the entry of a column comes before that of a row.
    let earlier: Vec<i32> = (0..256).map(|i| i32::from(i % 16 < i / 16)).collect();
    let earlier = Tensor::<2, Int>::from_data(TensorData::new(earlier, [16, 16]), &device);
    let before = row.clone().lower(column.clone()).int() + row.equal(column).int() * earlier;
    let places = before.sum_dim(1).reshape([1, 16]).expand([16, 16]);
    let place = Tensor::<1, Int>::arange(0..16, &device)
        .reshape([16, 1])
        .expand([16, 16]);
    // Row by row the code whose place it is.
    let order = places.equal(place).int().argmax(1).reshape([16]);
    let sorted = codebook.clone().select(0, order.clone());
    let bounds = (sorted.clone().narrow(0, 0, 15) + sorted.narrow(0, 1, 15)) / 2.0;
    let bounds = bounds.reshape([1, 15]).expand([len, 15]);
    let above = numbers.reshape([len, 1]).expand([len, 15]).greater(bounds);
    order.select(0, above.int().sum_dim(1).reshape([len]))
}

/// One word for every `N` codes, each shifted by its place's `shifts`, zeros after the last.
fn pack<const N: usize>(codes: Tensor<1, Int>, shifts: &[u32; N]) -> Tensor<1, Int> {
    let ([len], device) = (codes.dims(), codes.device());
    let words = len.div_ceil(N);
    let codes = codes.cast(DType::U32);
    let padding = Tensor::zeros([words * N - len], (&device, DType::U32));
    let codes = Tensor::cat(vec![codes, padding], 0).reshape([words, N]);
    let mut packed = Tensor::<1, Int>::zeros([words], (&device, DType::U32));
    for (place, &shift) in shifts.iter().enumerate() {
        let code = codes.clone().narrow(1, place, 1).reshape([words]);
        packed = packed.bitwise_or(code.bitwise_left_shift_scalar(shift));
    }
    packed
}
