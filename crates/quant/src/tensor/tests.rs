use super::*;

fn config(kind: QuantKind, block_size: usize, double_quant: bool) -> QuantConfig {
    QuantConfig {
        kind,
        block_size,
        double_quant,
        dtype: WeightDtype::F32,
    }
}

#[test]
fn bits_per_parameter_are_those_of_the_papers() {
    let numbers = vec![0.5_f32; 1024 * 1024];
    let bits = |kind, block_size, double_quant| {
        let config = config(kind, block_size, double_quant);
        quantize(&numbers, &[1024, 1024], config)
            .unwrap()
            .bits_per_param()
    };
    assert_eq!(bits(QuantKind::Nf4, 64, false), 4.5);
    assert_eq!(bits(QuantKind::Fp4, 128, false), 4.25);
    // 4 + 8/64 + 32/(64·256), and 32 bits for the offset of the whole tensor.
    let nested = bits(QuantKind::Nf4, 64, true);
    assert_eq!(nested, 4.126_953_125 + 32.0 / (1024.0 * 1024.0));
    assert!((nested - 4.127).abs() < 5e-4);
    assert_eq!(bits(QuantKind::Int8, 64, false), 8.5);
    assert_eq!(
        bits(QuantKind::Int8Vectorwise, 64, false),
        8.0 + 32.0 / 1024.0
    );
}

#[test]
fn bad_input_is_named() {
    let nf4 = config(QuantKind::Nf4, 64, false);
    let message = |numbers: &[f32], shape: &[usize], config| {
        quantize(numbers, shape, config).unwrap_err().to_string()
    };
    assert_eq!(
        message(&[1.0; 6], &[2, 4], nf4),
        "weight must have 8 elements, got 6"
    );
    assert_eq!(
        message(&[], &[3, 0], nf4),
        "shape [3, 0] has no elements, there is nothing to quantize"
    );
    assert_eq!(
        message(&[], &[1 << 40, 1 << 40], nf4),
        "the number of elements of shape [1099511627776, 1099511627776] overflows"
    );
    assert_eq!(
        message(&[0.0, f32::NAN], &[2], nf4),
        "weight[1] must be finite, got NaN"
    );
    assert_eq!(
        message(&[0.0; 2], &[2], config(QuantKind::Int8, 48, false)),
        "block_size must be one of [32, 64, 128, 256, 512, 1024, 2048, 4096], got 48"
    );
    assert_eq!(
        message(&[0.0; 2], &[2], config(QuantKind::Int8Vectorwise, 64, true)),
        "double_quant needs scales of blocks, int8_vectorwise has scales of rows"
    );
}

#[test]
fn parts_must_fit() {
    let parts = |codes: usize, absmax: &[f32], double_quant| {
        let config = config(QuantKind::Nf4, 64, double_quant);
        let scales = Scales::Absmax(absmax.to_vec());
        QuantTensor::from_parts(config, vec![5, 13], vec![0; codes], scales)
    };
    let message = |codes, absmax: &[f32], double_quant| {
        parts(codes, absmax, double_quant).unwrap_err().to_string()
    };
    parts(33, &[1.0, 1.0], false).unwrap();
    assert_eq!(
        message(32, &[1.0, 1.0], false),
        "codes must have 33 elements, got 32"
    );
    assert_eq!(
        message(33, &[1.0], false),
        "absmax must have 2 elements, got 1"
    );
    assert_eq!(
        message(33, &[1.0, f32::INFINITY], false),
        "absmax[1] must be finite, got inf"
    );
    assert_eq!(
        message(33, &[1.0, 1.0], true),
        "double_quant is true, but the scales are not of that kind"
    );
}

#[test]
fn parts_of_every_kind_go_together_again() {
    let numbers: Vec<f32> = (0..7 * 45).map(|i| (i as f32 * 0.7).sin()).collect();
    for (kind, double_quant) in [
        (QuantKind::Nf4, false),
        (QuantKind::Fp4, true),
        (QuantKind::Int8, true),
        (QuantKind::Int8Vectorwise, false),
    ] {
        let config = config(kind, 32, double_quant);
        let packed = quantize(&numbers, &[7, 45], config).unwrap();
        assert_eq!(packed.double_quant(), double_quant);
        let again = QuantTensor::from_parts(
            config,
            packed.shape().to_vec(),
            packed.codes().to_vec(),
            packed.scales().clone(),
        );
        assert_eq!(again.unwrap(), packed, "{kind}");
    }
}

#[test]
fn rows_are_the_blocks_of_vectorwise_int8() {
    let numbers = [127.0, 1.0, -2.0, 0.5, 0.25, 0.0];
    let config = config(QuantKind::Int8Vectorwise, 0, false);
    let packed = quantize(&numbers, &[2, 3], config).unwrap();
    assert_eq!(packed.block_size(), 3);
    assert_eq!(*packed.scales().absmax(), [127.0, 0.5]);
    assert_eq!(packed.codes(), [127, 1, 254, 127, 64, 0]);
    let error = packed.dequantize_into(&mut [0.0_f32; 5]).unwrap_err();
    assert_eq!(error.to_string(), "output must have 6 elements, got 5");
}
