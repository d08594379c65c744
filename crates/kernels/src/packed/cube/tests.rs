use burn::tensor::{DType, Device, Int, TensorData};
use flametune_testkit::{assert_close, tol, wgpu};

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn_cubecl::tensor::CubeTensor;

use super::super::reference;
use super::tiled::tests::through_half_tiles;
use super::*;
use crate::cube::CubeDevice;
use crate::packed::packed_linear as public;
use crate::sample;

/// A weight of a format, with scales nested or not, on a device.
#[derive(Clone, Copy, Debug)]
struct Case {
    shape: [usize; 2],
    block_size: usize,
    int8: bool,
    nested: Option<usize>,
}

/// Words that depend on `seed` alone.
fn words(len: usize, seed: u64, device: &Device) -> Tensor<1, Int> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words: Vec<u32> = (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        })
        .collect();
    Tensor::from_data(TensorData::new(words, [len]), (device, DType::U32))
}

fn positive(len: usize, seed: u64, device: &Device) -> Tensor<1> {
    sample::tensor([len], seed, device).abs() + 0.25
}

fn weight(case: Case, device: &Device) -> PackedWeight {
    let numel = case.shape[0] * case.shape[1];
    let n_blocks = numel.div_ceil(case.block_size);
    let scales = match case.nested {
        None => PackedScales::Absmax(positive(n_blocks, 3, device)),
        Some(block_size) => PackedScales::Nested {
            codes: words(n_blocks.div_ceil(4), 4, device),
            map: sample::tensor([256], 5, device),
            absmax: positive(n_blocks.div_ceil(block_size), 6, device),
            offset: 0.75,
            block_size,
        },
    };
    let (format, per_word) = if case.int8 {
        (CodeFormat::Int8, 4)
    } else {
        let codebook = sample::tensor([16], 7, device);
        (CodeFormat::FourBit { codebook }, 8)
    };
    let codes = words(numel.div_ceil(per_word), 8, device);
    PackedWeight::new(case.shape, case.block_size, format, codes, scales)
}

/// Sizes that take 16-byte loads, whole words, and neither; blocks of whole rows and across them.
fn cases() -> Vec<Case> {
    let case = |shape, block_size, int8, nested| Case {
        shape,
        block_size,
        int8,
        nested,
    };
    vec![
        case([37, 96], 64, false, None),
        case([21, 160], 32, false, Some(4)),
        case([19, 48], 16, true, None),
        case([66, 40], 24, false, None),
        case([35, 20], 12, true, Some(3)),
        case([9, 13], 5, false, Some(7)),
        case([11, 7], 4, true, None),
    ]
}

#[test]
fn dense_weights_equal_the_reference() {
    let Some(device) = wgpu() else { return };
    for case in cases() {
        let expected = reference::dequantize(&weight(case, &Device::flex())).into_data();
        let got = crate::dequantize(&weight(case, &device)).into_data();
        // A product and at most a quotient and a sum, each rounded once.
        assert_close(&got, &expected, tol::f32_sum(3), &format!("{case:?}"));
    }
}

/// `y = x·Wᵀ + b` and the gradients of x and b for fixed weights of y.
fn product(
    case: Case,
    x_shape: [usize; 3],
    dtype: DType,
    precision: Precision,
    device: &Device,
    reference: bool,
) -> [TensorData; 3] {
    let weight = weight(case, device);
    let device = device.clone().autodiff();
    let leaf = |x: TensorData| Tensor::<3>::from_data(x, (&device, dtype)).require_grad();
    let x = leaf(sample::numbers(x_shape, 1));
    let bias = sample::tensor([case.shape[0]], 2, &device).require_grad();
    let y = if reference {
        reference::packed_linear(x.clone(), &weight, Some(bias.clone()), precision)
    } else {
        public(x.clone(), &weight, Some(bias.clone()), precision)
    };
    let grads = sample::pull_back(y.clone().cast(DType::F32));
    let (dx, dbias) = (x.grad(&grads).unwrap(), bias.grad(&grads).unwrap());
    [y.inner().into_data(), dx.into_data(), dbias.into_data()]
}

fn check(case: Case, x_shape: [usize; 3], dtype: DType, precision: Precision) {
    let Some(device) = wgpu() else { return };
    let what = format!("{case:?} {x_shape:?} {dtype:?} {precision:?}");
    let got = product(case, x_shape, dtype, precision, &device, false);
    let flex = Device::flex();
    let expected = product(case, x_shape, dtype, precision, &flex, true);
    let terms = u32::try_from(case.shape[0].max(case.shape[1])).unwrap();
    // Terms are below 1.5. In f32 the order of the sums is free. With rounded operands the
    // reference rounds what the kernels keep in f32 (sums in f16, a gradient in bf16), and scales
    // that differ in the last place round to neighbouring numbers: a few roundings of values of
    // order √terms.
    let size = f64::from(terms).sqrt();
    let tolerance = match (dtype, precision) {
        (DType::F16, _) => tol::roundings(DType::F16, terms).of_magnitude(2.0),
        (_, Precision::Bf16) => tol::roundings(DType::BF16, 1).of_magnitude(size),
        _ => tol::f32_sum(terms).of_magnitude(4.0),
    };
    for (i, name) in ["y", "dx", "db"].into_iter().enumerate() {
        assert_eq!(got[i].dtype(), expected[i].dtype(), "{what} {name}");
        assert_close(&got[i], &expected[i], tolerance, &format!("{what} {name}"));
    }
}

#[test]
fn products_and_gradients_equal_the_reference() {
    for case in cases() {
        let d_in = case.shape[1];
        check(case, [1, 1, d_in], DType::F32, Precision::Full);
        check(case, [3, 12, d_in], DType::F32, Precision::Full);
    }
}

#[test]
fn more_rows_than_a_pass_or_a_tile_holds() {
    let case = cases()[0];
    check(case, [2, 3, 96], DType::F32, Precision::Full);
    check(case, [1, 13, 96], DType::F32, Precision::Full);
    check(case, [2, 70, 96], DType::F32, Precision::Full);
}

#[test]
fn many_outputs_equal_the_reference() {
    let case = Case {
        shape: [8201, 32],
        block_size: 32,
        int8: false,
        nested: None,
    };
    check(case, [1, 2, 32], DType::F32, Precision::Full);
}

#[test]
fn weights_may_live_on_an_autodiff_device() {
    let Some(device) = wgpu() else { return };
    let case = cases()[1];
    let plain = weight(case, &device);
    let tracking = weight(case, &device.clone().autodiff());
    let x = sample::tensor([2, 160], 1, &device.autodiff()).require_grad();
    let y = |weight: &PackedWeight| {
        let y = public(x.clone(), weight, None, Precision::Full);
        let gradient = x.grad(&sample::pull_back(y.clone())).unwrap();
        [y.inner().into_data(), gradient.into_data()]
    };
    assert_eq!(y(&tracking), y(&plain));
    let dense = crate::dequantize(&tracking);
    assert_eq!(dense.into_data(), crate::dequantize(&plain).into_data());
}

#[test]
fn rounded_operands_equal_the_reference() {
    for case in [cases()[0], cases()[2], cases()[4]] {
        check(case, [1, 2, case.shape[1]], DType::F32, Precision::Bf16);
        check(case, [5, 5, case.shape[1]], DType::F32, Precision::Bf16);
    }
}

#[test]
fn half_precision_activations_equal_the_reference() {
    let Some(device) = wgpu() else { return };
    let Some(cube) = cube::device(&device) else {
        return;
    };
    if !cube::computes(&cube.client(), DType::F16) {
        return;
    }
    for case in [cases()[1], cases()[3]] {
        check(case, [1, 2, case.shape[1]], DType::F16, Precision::Full);
        check(case, [5, 5, case.shape[1]], DType::F16, Precision::Full);
    }
}

#[test]
fn views_are_read_as_they_are() {
    let Some(device) = wgpu() else { return };
    let weight = weight(cases()[0], &device);
    let x = sample::tensor([100, 5], 1, &device)
        .swap_dims(0, 1)
        .narrow(1, 2, 96);
    let whole = Tensor::<2>::from_data(x.clone().into_data(), &device);
    let got = public(x, &weight, None, Precision::Full).into_data();
    let expected = public(whole, &weight, None, Precision::Full).into_data();
    assert_close(&got, &expected, tol::Tolerance::exact(), "a view");
}

#[test]
fn nothing_times_a_weight_is_nothing() {
    let Some(device) = wgpu() else { return };
    let weight = weight(cases()[0], &device);
    let y = public(
        Tensor::<2>::zeros([0, 96], &device),
        &weight,
        None,
        Precision::Full,
    );
    assert_eq!(y.dims(), [0, 37]);
}

/// A weight as the backend below Fusion sees it.
fn bare(weight: &PackedWeight, precision: Precision, cube: &CubeDevice) -> Packed<CubeBackend> {
    let float =
        |tensor| CubeBackend::float_from_data(Tensor::<1>::from_dispatch(tensor).into_data(), cube);
    let int = |tensor| {
        CubeBackend::int_from_data(Tensor::<1, Int>::from_dispatch(tensor).into_data(), cube)
    };
    let parts = parts(weight, precision);
    Packed {
        codes: int(parts.codes),
        codebook: float(parts.codebook),
        absmax: float(parts.absmax),
        nested: int(parts.nested),
        map: float(parts.map),
        layout: parts.layout,
    }
}

fn read(tensor: CubeTensor) -> TensorData {
    burn::tensor::read_sync(CubeBackend::float_into_data(tensor)).unwrap()
}

#[test]
fn tiles_of_half_precision_equal_the_reference() {
    let Some(device) = wgpu() else { return };
    let Some(cube) = cube::device(&device) else {
        return;
    };
    if !cube::computes(&cube.client(), DType::F16) {
        return;
    }
    for (case, rows, tile_rows) in [(cases()[1], 40, 64), (cases()[3], 130, 128)] {
        for transposed in [false, true] {
            let [d_out, d_in] = case.shape;
            let x = [rows, if transposed { d_out } else { d_in }];
            let x = sample::numbers(x, 1).convert_dtype(DType::F16);
            let mut packed = bare(&weight(case, &device), Precision::Full, &cube);
            packed.layout.transposed = transposed;
            let left = CubeBackend::float_from_data(x.clone(), &cube);
            let got = read(through_half_tiles(left, packed, tile_rows));

            let dense = reference::dequantize(&weight(case, &Device::flex()));
            let dense = if transposed { dense } else { dense.transpose() };
            let x = Tensor::<2>::from_data(x, (&Device::flex(), DType::F32));
            let expected = x.matmul(dense).into_data();
            // Weights and results are rounded to f16; sums of terms below 1.5 are f32.
            let tolerance = tol::roundings(DType::F16, 2).of_magnitude(4.0);
            assert_close(
                &got,
                &expected,
                tolerance,
                &format!("{case:?} {transposed}"),
            );
        }
    }
}

#[test]
fn fusion_changes_nothing() {
    let Some(device) = wgpu() else { return };
    let Some(cube) = cube::device(&device) else {
        return;
    };
    for (case, rows) in [(cases()[1], 3), (cases()[3], 20)] {
        let weight = weight(case, &device);
        let x = sample::numbers([rows, case.shape[1]], 1);
        let fused = Tensor::<2>::from_data(x.clone(), &device);
        // Between other operations, so that Fusion has something to fuse around.
        let fused = public(fused * 2.0, &weight, None, Precision::Full) * 0.5;
        let x = CubeBackend::float_from_data(x, &cube);
        let bare = bare(&weight, Precision::Full, &cube);
        let bare = read(CubeBackend::packed_cube_product(x, bare));
        let fused = fused.into_data();
        // Doubling and halving are exact.
        assert_close(&fused, &bare, tol::Tolerance::exact(), &format!("{case:?}"));
    }
}
