//! Files written here, read back, and compared with what the references write.

use flametune_quant::Error;
use flametune_quant::gguf::{
    Array, GgmlType, GgufFile, GgufSpec, Value, dequantize_into, quantize, write_gguf,
};
use flametune_testkit::fixture_path;
use proptest::prelude::*;
use safetensors::SafeTensors;

fn numbers(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<4>();
    numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

#[test]
fn blocks_are_byte_for_byte_those_of_the_references() {
    let golden = std::fs::read(fixture_path("gguf/quantized.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let values = numbers(golden.tensor("numbers").unwrap().data());
    for kind in [
        GgmlType::F16,
        GgmlType::BF16,
        GgmlType::Q4_0,
        GgmlType::Q5_0,
        GgmlType::Q8_0,
        GgmlType::Q4_K,
    ] {
        let expected = golden.tensor(kind.name()).unwrap();
        let got = quantize(kind, &values).unwrap();
        assert_eq!(got.len(), expected.data().len(), "{kind}");
        let size = kind.block_bytes();
        let blocks = got.chunks(size).zip(expected.data().chunks(size));
        for (index, (got, expected)) in blocks.enumerate() {
            assert_eq!(got, expected, "{kind}, block {index}");
        }
    }
}

#[test]
fn numbers_that_do_not_fit_are_named() {
    let mut values = vec![0.0; 256];
    values[7] = f32::NAN;
    for kind in [GgmlType::F32, GgmlType::Q4_K, GgmlType::Q8_0] {
        let error = quantize(kind, &values).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("number 7 is NaN, which {kind} cannot hold")
        );
    }
    assert!(matches!(
        quantize(GgmlType::F16, &[1.0, 70_000.0]),
        Err(Error::NotFinite { index: 1, .. })
    ));
    assert!(matches!(
        quantize(GgmlType::Q4_0, &[0.0; 33]),
        Err(Error::BlockElements {
            elements: 33,
            block: 32,
            ..
        })
    ));
    assert!(matches!(
        quantize(GgmlType::Q2_K, &[0.0; 256]),
        Err(Error::NoQuantizer { .. })
    ));
}

/// The pairs of the file with every kind of value, in an order of its own.
fn pairs() -> Vec<(String, Value)> {
    let file = GgufFile::open(fixture_path("gguf/all_types.gguf")).unwrap();
    let pairs = file.metadata().iter();
    pairs
        .filter(|(key, _)| *key != "general.alignment")
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

fn spec(name: &str, shape: &[usize], kind: GgmlType) -> GgufSpec {
    GgufSpec {
        name: name.to_owned(),
        shape: shape.to_vec(),
        kind,
    }
}

#[test]
fn a_file_reads_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let specs = [
        spec("a.weight", &[3, 64], GgmlType::Q8_0),
        spec("b.weight", &[5], GgmlType::F32),
        spec("c.weight", &[2, 256], GgmlType::Q4_K),
        spec("d.weight", &[0, 32], GgmlType::Q4_0),
        spec("e.weight", &[1, 7], GgmlType::F16),
    ];
    let value = |index: usize| (index as f32 * 0.37).sin();
    let staged = write_gguf(&path, &pairs(), &specs, |spec| {
        let elements = spec.shape.iter().product::<usize>();
        Ok::<_, Error>((0..elements).map(value).collect())
    })
    .unwrap();
    assert!(!path.exists());
    let bytes = staged.bytes();
    staged.publish().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);

    let file = GgufFile::open(&path).unwrap();
    let got: Vec<_> = file.metadata().iter().collect();
    let expected = pairs();
    assert_eq!(got.len(), expected.len());
    for ((key, value), (expected_key, expected)) in got.iter().zip(&expected) {
        assert_eq!((*key, *value), (expected_key.as_str(), expected));
    }
    assert_eq!(file.tensors().len(), specs.len());
    for (tensor, spec) in file.tensors().iter().zip(&specs) {
        assert_eq!(tensor.name(), spec.name);
        assert_eq!(tensor.shape(), spec.shape);
        assert_eq!(tensor.kind(), spec.kind);
        let values: Vec<f32> = (0..tensor.elements()).map(value).collect();
        let mut expected = vec![0.0; values.len()];
        dequantize_into(
            spec.kind,
            &quantize(spec.kind, &values).unwrap(),
            &mut expected,
        )
        .unwrap();
        assert_eq!(file.dequantize(&spec.name).unwrap(), expected);
    }
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let count = || std::fs::read_dir(folder.path()).unwrap().count();
    let specs = [
        spec("a", &[2], GgmlType::F32),
        spec("b", &[2], GgmlType::F32),
    ];
    let error = write_gguf(&path, &[], &specs, |spec| match spec.name.as_str() {
        "a" => Ok(vec![1.0, 2.0]),
        _ => Ok::<_, Error>(vec![1.0]),
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "tensor `b` must have 2 values, got 1");
    assert_eq!(count(), 0);

    let zeros = |spec: &GgufSpec| Ok::<_, Error>(vec![0.0; spec.shape.iter().product()]);
    let twice = [specs[0].clone(), specs[0].clone()];
    assert!(matches!(
        write_gguf(&path, &[], &twice, zeros),
        Err(Error::DuplicateTensor { .. })
    ));
    let pair = ("k".to_owned(), Value::Array(Array::U8(vec![1])));
    assert!(matches!(
        write_gguf(&path, &[pair.clone(), pair], &specs, zeros),
        Err(Error::DuplicateKey { .. })
    ));
    assert!(matches!(
        write_gguf(&path, &[], &[spec("a", &[2, 48], GgmlType::Q4_0)], zeros),
        Err(Error::PartialBlock {
            row: 48,
            block: 32,
            ..
        })
    ));
    assert!(matches!(
        write_gguf(
            &path,
            &[],
            &[spec("a", &[usize::MAX, 32], GgmlType::Q4_0)],
            zeros
        ),
        Err(Error::SizeOverflow { .. })
    ));
    // Staged and not published.
    drop(write_gguf(&path, &[], &specs, zeros).unwrap());
    assert_eq!(count(), 0);
}

proptest! {
    /// `|x − back|` is half a step of the codes, and what rounding the scale to f16 moves.
    #[test]
    fn blocks_of_eight_and_four_bits_stay_near(x in prop::collection::vec(-100f32..100.0, 32)) {
        let largest = x.iter().fold(0f32, |most, x| most.max(x.abs()));
        for (kind, steps) in [(GgmlType::Q8_0, 127.0), (GgmlType::Q4_0, 8.0), (GgmlType::Q5_0, 16.0)] {
            let mut back = vec![0.0; 32];
            dequantize_into(kind, &quantize(kind, &x).unwrap(), &mut back).unwrap();
            // The number opposite to the extreme one is cut off a whole step below it (4 and 5 bits).
            let step = largest / steps;
            let bound = step * if kind == GgmlType::Q8_0 { 0.5 } else { 1.0 } + largest * 1e-3 + 1e-6;
            for (x, back) in x.iter().zip(&back) {
                prop_assert!((x - back).abs() <= bound, "{} {} {}", kind, x, back);
            }
        }
    }
}
