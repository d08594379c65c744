//! Files written by PyPI `gguf`, read back as PyPI `gguf` reads them.

use std::path::PathBuf;

use flametune_quant::gguf::{Array, GgmlType, GgufFile, Value, can_dequantize};
use flametune_testkit::fixture_path;
use safetensors::SafeTensors;
use serde_json::json;

pub(crate) fn fixture(name: &str) -> PathBuf {
    fixture_path(format!("gguf/{name}"))
}

#[test]
fn every_type_dequantizes_bit_for_bit_as_in_python() {
    let file = GgufFile::open(fixture("all_types.gguf")).unwrap();
    let golden = std::fs::read(fixture("all_types.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    assert_eq!(file.tensors().len(), golden.len());
    for tensor in file.tensors() {
        let expected = golden.tensor(tensor.name()).unwrap();
        assert_eq!(tensor.shape(), expected.shape(), "{}", tensor.name());
        let values = file.dequantize(tensor.name()).unwrap();
        let (expected, _) = expected.data().as_chunks::<4>();
        assert_eq!(values.len(), expected.len(), "{}", tensor.name());
        for (index, (got, expected)) in values.iter().zip(expected).enumerate() {
            let expected = f32::from_le_bytes(*expected);
            assert_eq!(
                got.to_bits(),
                expected.to_bits(),
                "{} [{index}]: {got} is not {expected}",
                tensor.name()
            );
        }
    }
}

#[test]
fn every_type_that_dequantizes_has_a_golden() {
    let file = GgufFile::open(fixture("all_types.gguf")).unwrap();
    for kind in (0..64)
        .filter_map(GgmlType::from_code)
        .filter(|&kind| can_dequantize(kind))
    {
        assert!(
            file.tensors().iter().any(|tensor| tensor.kind() == kind),
            "{kind}"
        );
    }
}

#[test]
fn metadata_of_every_kind() {
    let file = GgufFile::open(fixture("all_types.gguf")).unwrap();
    assert_eq!(file.version(), 3);
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("all_types.json")).unwrap()).unwrap();
    let got: serde_json::Map<_, _> = file
        .metadata()
        .iter()
        .filter(|(key, _)| key.starts_with("test."))
        .map(|(key, value)| (key.to_owned(), to_json(value)))
        .collect();
    assert_eq!(serde_json::Value::Object(got), expected);
    assert_eq!(
        file.metadata().require::<u32>("general.alignment").unwrap(),
        64
    );
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(value) => json!(value),
        Value::I8(value) => json!(value),
        Value::U16(value) => json!(value),
        Value::I16(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::I32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::Bool(value) => json!(value),
        Value::String(value) => json!(value),
        Value::Array(value) => array_to_json(value),
    }
}

fn array_to_json(array: &Array) -> serde_json::Value {
    match array {
        Array::U8(items) => json!(items),
        Array::I8(items) => json!(items),
        Array::U16(items) => json!(items),
        Array::I16(items) => json!(items),
        Array::U32(items) => json!(items),
        Array::I32(items) => json!(items),
        Array::U64(items) => json!(items),
        Array::I64(items) => json!(items),
        Array::F32(items) => json!(items),
        Array::F64(items) => json!(items),
        Array::Bool(items) => json!(items),
        Array::String(items) => json!(items),
        Array::Array(items) => items.iter().map(array_to_json).collect(),
    }
}

#[test]
fn version_two_reads_like_three() {
    let file = GgufFile::open(fixture("version2.gguf")).unwrap();
    assert_eq!(file.version(), 2);
    assert_eq!(
        file.metadata().require::<&str>("general.name").unwrap(),
        "two"
    );
    assert_eq!(file.tensor("values").unwrap().shape(), [2, 3]);
    assert_eq!(
        file.dequantize("values").unwrap(),
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    );
}
