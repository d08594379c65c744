//! Weights quantized by bitsandbytes, code for code and bit for bit.

use std::path::Path;

use flametune_quant::{
    Blockwise8, Int8Rows, Map8, NestedScales, QuantConfig, QuantKind, QuantTensor, Scales,
    WeightDtype, fp4_codebook, nf4_codebook, quantize,
};
use flametune_testkit::fixture_path;
use half::{bf16, f16};

use super::golden::{Golden, assert_scale_codes};

#[test]
fn tables_are_those_of_bitsandbytes() {
    let golden = Golden::open("quant/tables.safetensors");
    golden.assert_bits("nf4", nf4_codebook().values());
    golden.assert_bits("fp4", fp4_codebook().values());
    golden.assert_bits("dynamic_signed", Map8::dynamic_signed().values());
    golden.assert_bits("dynamic_unsigned", Map8::dynamic_unsigned().values());
    golden.assert_bits("linear8", Map8::linear().values());
}

/// The files `MATRIX.KIND.bsSIZE[.nested].DTYPE.safetensors`.
fn matrices() -> Vec<(String, QuantConfig)> {
    let mut found: Vec<_> = std::fs::read_dir(fixture_path("quant"))
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let parts: Vec<&str> = name.split('.').collect();
            let config = QuantConfig {
                kind: match *parts.get(1)? {
                    "nf4" => QuantKind::Nf4,
                    "fp4" => QuantKind::Fp4,
                    _ => return None,
                },
                block_size: parts.get(2)?.strip_prefix("bs")?.parse().unwrap(),
                double_quant: parts.contains(&"nested"),
                dtype: WeightDtype::from_torch_name(parts[parts.len() - 2]).unwrap(),
            };
            Some((name, config))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found.len(), 10);
    found
}

#[test]
fn matrices_quantize_bit_for_bit() {
    for (name, config) in matrices() {
        let golden = Golden::open(Path::new("quant").join(&name));
        let input = golden.f32s("input");
        let shape = golden.shape("input");
        let packed = quantize(&input, shape, config).unwrap();
        assert!(packed.codes() == golden.bytes("packed"), "{name}");
        match packed.scales() {
            Scales::Absmax(absmax) => golden.assert_bits("absmax", absmax),
            Scales::Nested(nested) => {
                golden.assert_bits("absmax_nested_absmax", nested.codes().absmax());
                golden.assert_bits("absmax_offset", &[nested.offset()]);
                assert_scale_codes(nested, &input, config, golden.bytes("absmax_codes"));
            }
        }
    }
}

#[test]
fn matrices_dequantize_bit_for_bit() {
    for (name, config) in matrices() {
        let golden = Golden::open(Path::new("quant").join(&name));
        let packed = stored(&golden, config);
        golden.assert_bits("absmax", &packed.scales().absmax());
        let numel = packed.numel();
        let bits: Vec<u8> = match config.dtype {
            WeightDtype::F32 => le_bytes(&packed.dequantize(), |x| x.to_le_bytes()),
            WeightDtype::Bf16 => {
                let mut out = vec![bf16::ZERO; numel];
                packed.dequantize_into(&mut out).unwrap();
                le_bytes(&out, |x| x.to_le_bytes())
            }
            WeightDtype::F16 => {
                let mut out = vec![f16::ZERO; numel];
                packed.dequantize_into(&mut out).unwrap();
                le_bytes(&out, |x| x.to_le_bytes())
            }
        };
        assert!(bits == golden.bytes("dequantized"), "{name}");
    }
}

/// The tensor that bitsandbytes made.
fn stored(golden: &Golden, config: QuantConfig) -> QuantTensor {
    let scales = if config.double_quant {
        let codes = golden.bytes("absmax_codes").to_vec();
        let absmax = golden.f32s("absmax_nested_absmax");
        let codes = Blockwise8::from_parts(codes, absmax, 256).unwrap();
        Scales::Nested(NestedScales::from_parts(codes, golden.f32s("absmax_offset")[0]).unwrap())
    } else {
        Scales::Absmax(golden.f32s("absmax"))
    };
    let shape = golden.shape("input").to_vec();
    QuantTensor::from_parts(config, shape, golden.bytes("packed").to_vec(), scales).unwrap()
}

fn le_bytes<T: Copy, const N: usize>(numbers: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|&x| to_bytes(x)).collect()
}

#[test]
fn other_block_sizes_and_half_precision_quantize_bit_for_bit() {
    let golden = Golden::open("quant/edges.safetensors");
    let input = golden.f32s("blocks.input");
    let shape = golden.shape("blocks.input");
    for (kind, block_size) in [
        (QuantKind::Nf4, 32),
        (QuantKind::Nf4, 256),
        (QuantKind::Nf4, 4096),
        (QuantKind::Fp4, 1024),
    ] {
        let config = QuantConfig {
            kind,
            block_size,
            double_quant: false,
            dtype: WeightDtype::F16,
        };
        let packed = quantize(&input, shape, config).unwrap();
        let name = format!("blocks.{kind}.bs{block_size}");
        assert_eq!(
            packed.codes(),
            golden.bytes(&format!("{name}.packed")),
            "{name}"
        );
        golden.assert_bits(&format!("{name}.absmax"), &packed.scales().absmax());
        if block_size == 32 {
            let mut out = vec![f16::ZERO; packed.numel()];
            packed.dequantize_into(&mut out).unwrap();
            let bytes = le_bytes(&out, |x| x.to_le_bytes());
            assert!(bytes == golden.bytes(&format!("{name}.dequantized")));
        }
    }
}

#[test]
fn scales_of_several_second_level_blocks_get_the_nearest_codes() {
    let golden = Golden::open("quant/edges.safetensors");
    let nested = NestedScales::quantize(&golden.f32s("blocks.nf4.bs32.absmax")).unwrap();
    assert_eq!(nested.codes().absmax().len(), 2);
    golden.assert_bits("blocks.nf4.bs32.nested.offset", &[nested.offset()]);
    golden.assert_bits("blocks.nf4.bs32.nested.absmax", nested.codes().absmax());
    let codes = golden.bytes("blocks.nf4.bs32.nested.codes");
    assert_eq!(nested.codes().codes(), codes);
}

#[test]
fn offsets_are_the_means_of_torch() {
    let golden = Golden::open("quant/edges.safetensors");
    let sizes: Vec<usize> = golden
        .bytes("means.sizes")
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&size| i64::from_le_bytes(size).try_into().unwrap())
        .collect();
    let offsets: Vec<f32> = sizes
        .into_iter()
        .map(|size| {
            let scales: Vec<f32> = (0..size)
                .map(|i| (i * 7919 % 10007) as f32 / 10007.0)
                .collect();
            NestedScales::quantize(&scales).unwrap().offset()
        })
        .collect();
    golden.assert_bits("means.values", &offsets);
}

#[test]
fn ties_and_zeros_go_where_they_go_in_bitsandbytes() {
    let golden = Golden::open("quant/edges.safetensors");
    for kind in [QuantKind::Nf4, QuantKind::Fp4] {
        let config = QuantConfig {
            kind,
            block_size: 32,
            double_quant: false,
            dtype: WeightDtype::F32,
        };
        let ties = golden.f32s(&format!("ties.{kind}.input"));
        for (case, input) in [("ties", ties), ("zeros", vec![0.0; 70])] {
            let packed = quantize(&input, &[input.len()], config).unwrap();
            let name = format!("{case}.{kind}");
            assert_eq!(
                packed.codes(),
                golden.bytes(&format!("{name}.packed")),
                "{name}"
            );
            golden.assert_bits(&format!("{name}.absmax"), &packed.scales().absmax());
        }
    }
}

#[test]
fn eight_bits_block_by_block_are_the_nearest() {
    let golden = Golden::open("quant/blockwise8.safetensors");
    for (name, map) in [
        ("signed", Map8::dynamic_signed()),
        ("unsigned", Map8::dynamic_unsigned()),
    ] {
        for block_size in [64, 256, 2048] {
            let name = format!("bs{block_size}.{name}");
            let input = golden.f32s(&format!("{name}.input"));
            let packed = Blockwise8::quantize(&input, block_size, map).unwrap();
            golden.assert_bits(&format!("{name}.absmax"), packed.absmax());
            let codes = golden.bytes(&format!("{name}.codes_nearest"));
            assert!(packed.codes() == codes, "{name}");
            if block_size < 2048 {
                let numbers = packed.dequantize(map);
                golden.assert_bits(&format!("{name}.dequantized_nearest"), &numbers);
            }
        }
    }
}

#[test]
fn eight_bits_row_by_row_equal_llm_int8() {
    let golden = Golden::open("quant/int8_vectorwise.safetensors");
    let &[rows, cols] = golden.shape("input") else {
        panic!("not a matrix")
    };
    // The reference works on half precision.
    let input: Vec<f32> = golden
        .f32s("input")
        .into_iter()
        .map(|x| f16::from_f32(x).to_f32())
        .collect();
    for (name, threshold) in [("thr0", None), ("thr6", Some(6.0))] {
        let packed = Int8Rows::quantize(&input, cols, threshold).unwrap();
        let codes = le_bytes(&packed.codes, i8::to_le_bytes);
        assert_eq!(codes, golden.bytes(&format!("{name}.codes")), "{name}");
        golden.assert_bits(&format!("{name}.row_absmax"), &packed.row_absmax);
        if threshold.is_some() {
            let columns: Vec<u8> = packed
                .outlier_cols
                .iter()
                .flat_map(|&column| (column as i64).to_le_bytes())
                .collect();
            assert_eq!(columns, golden.bytes("thr6.outlier_cols"));
        } else {
            golden.assert_bits("dequantized_thr0", &packed.dequantize());
        }
    }

    let config = QuantConfig {
        kind: QuantKind::Int8Vectorwise,
        block_size: 0,
        double_quant: false,
        dtype: WeightDtype::F16,
    };
    let packed = quantize(&input, &[rows, cols], config).unwrap();
    assert_eq!(packed.codes(), golden.bytes("thr0.codes"));
    golden.assert_bits("thr0.row_absmax", &packed.scales().absmax());
    golden.assert_bits("dequantized_thr0", &packed.dequantize());
}
