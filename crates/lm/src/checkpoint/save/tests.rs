use std::cell::Cell;
use std::collections::HashMap;

use burn::tensor::DType;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::{SafetensorsCheckpoint, TensorSource};

fn spec(name: &str, shape: &[usize], dtype: DType) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        shape: shape.to_vec(),
        dtype,
    }
}

/// Tensors of several types, 16 + 6 + 8 + 24 + 0 bytes, not in the order of their names.
fn specs() -> Vec<TensorSpec> {
    vec![
        spec("z", &[2, 2], DType::F32),
        spec("b", &[3], DType::BF16),
        spec("a", &[4], DType::F16),
        spec("c", &[2, 3], DType::F32),
        spec("empty", &[0, 5], DType::I64),
    ]
}

/// Bytes that are different for every tensor.
fn values(spec: &TensorSpec) -> TensorData {
    let bytes = spec.shape.iter().product::<usize>() * spec.dtype.size();
    let seed = spec.name.bytes().map(usize::from).sum::<usize>();
    let bytes = (0..bytes)
        .map(|i| u8::try_from((seed + i * 7) % 120).unwrap())
        .collect();
    TensorData::from_bytes_vec(bytes, spec.shape.clone(), spec.dtype)
}

fn save(folder: &Path, max_shard_bytes: usize) -> SavedCheckpoint {
    let metadata = BTreeMap::new();
    save_safetensors(folder, &specs(), max_shard_bytes, &metadata, |s| {
        Ok(values(s))
    })
    .unwrap()
}

/// The names in a folder, sorted.
fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn assert_holds_specs(folder: &Path) {
    let checkpoint = SafetensorsCheckpoint::open(folder).unwrap();
    assert_eq!(checkpoint.names(), ["a", "b", "c", "empty", "z"]);
    assert_eq!(checkpoint.metadata()["format"], "pt");
    for spec in specs() {
        assert_eq!(checkpoint.info(&spec.name).unwrap().shape, spec.shape);
        assert_eq!(
            checkpoint.bytes(&spec.name).unwrap(),
            values(&spec).as_bytes(),
            "{spec:?}"
        );
    }
}

#[test]
fn one_file_equals_the_reference_writer_byte_for_byte() {
    let folder = TempDir::new().unwrap();
    let saved = save(folder.path(), 1000);
    assert_eq!(saved.files, [folder.path().join("model.safetensors")]);
    assert_eq!(saved.tensor_bytes, 54);

    let data: Vec<_> = specs().into_iter().map(|s| (values(&s), s)).collect();
    let views = data.iter().map(|(values, spec)| {
        let dtype = safetensors_dtype(spec.dtype).unwrap();
        let view =
            ::safetensors::tensor::TensorView::new(dtype, spec.shape.clone(), values.as_bytes());
        (spec.name.as_str(), view.unwrap())
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let expected = ::safetensors::serialize(views, Some(metadata)).unwrap();
    assert_eq!(fs::read(&saved.files[0]).unwrap(), expected);
    assert_holds_specs(folder.path());
}

#[test]
fn shards_fill_in_order_and_an_oversized_tensor_stands_alone() {
    let folder = TempDir::new().unwrap();
    let saved = save(folder.path(), 22);
    assert_eq!(
        listing(folder.path()),
        [
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json",
        ]
    );
    assert_eq!(saved.files.len(), 4);
    let index: Value =
        serde_json::from_slice(&fs::read(folder.path().join(INDEX_FILE)).unwrap()).unwrap();
    assert_eq!(
        index,
        json!({
            "metadata": { "total_size": 54 },
            "weight_map": {
                // 24 bytes are more than a shard may hold; 16 + 6 fill one exactly.
                "c": "model-00002-of-00003.safetensors",
                "z": "model-00001-of-00003.safetensors",
                "b": "model-00001-of-00003.safetensors",
                "a": "model-00003-of-00003.safetensors",
                "empty": "model-00003-of-00003.safetensors",
            },
        })
    );
    assert_holds_specs(folder.path());
}

#[test]
fn saving_again_replaces_the_earlier_checkpoint_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let other = folder.path().join("model-card.safetensors");
    fs::write(&other, "mine").unwrap();
    for max_shard_bytes in [22, 1000, 30, 1] {
        save(folder.path(), max_shard_bytes);
        assert_holds_specs(folder.path());
    }
    assert!(other.is_file());
    // Five shards (the empty tensor fits into a shard of one byte), their index, and the card.
    assert_eq!(listing(folder.path()).len(), 5 + 2);
}

#[test]
fn failing_data_leave_the_earlier_checkpoint_untouched() {
    let folder = TempDir::new().unwrap();
    save(folder.path(), 1000);
    for max_shard_bytes in [1000, 22, 1] {
        let calls = Cell::new(0);
        let result = save_safetensors(
            folder.path(),
            &specs(),
            max_shard_bytes,
            &BTreeMap::new(),
            |spec| {
                calls.set(calls.get() + 1);
                if calls.get() == 4 {
                    Err(Error::EmptyInput)
                } else {
                    Ok(values(spec))
                }
            },
        );
        assert!(matches!(result, Err(Error::EmptyInput)));
        assert_eq!(listing(folder.path()), ["model.safetensors"]);
        assert_holds_specs(folder.path());
    }
}

#[test]
fn data_other_than_announced_are_refused() {
    let cases = [
        (spec("a", &[2, 2], DType::F32), "f32 [2, 2]"),
        (spec("a", &[4], DType::F16), "f16 [4]"),
    ];
    for (other, named) in cases {
        let folder = TempDir::new().unwrap();
        let announced = [spec("a", &[4], DType::F32)];
        let metadata = BTreeMap::new();
        let result = save_safetensors(folder.path(), &announced, 99, &metadata, |_| {
            Ok(values(&other))
        });
        assert_eq!(
            result.unwrap_err().to_string(),
            format!("tensor `a` was announced as f32 [4], got {named}")
        );
        assert!(listing(folder.path()).is_empty());
    }
}

#[test]
fn names_types_and_shapes_without_a_file_form_are_refused() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("model");
    let refuse = |tensors: &[TensorSpec]| {
        save_safetensors(&target, tensors, 99, &BTreeMap::new(), |s| Ok(values(s))).unwrap_err()
    };
    let source = |error| match error {
        Error::InvalidSafetensors { source, .. } => source,
        other => panic!("{other}"),
    };
    let twice = [spec("a", &[1], DType::F32), spec("a", &[1], DType::F32)];
    assert!(matches!(
        source(refuse(&twice)),
        HeaderError::RepeatedTensor { .. }
    ));
    let reserved = [spec("__metadata__", &[1], DType::F32)];
    assert!(matches!(
        source(refuse(&reserved)),
        HeaderError::ReservedName { .. }
    ));
    let huge = [spec("a", &[usize::MAX, 2], DType::F32)];
    assert!(matches!(
        source(refuse(&huge)),
        HeaderError::ImpossibleShape { .. }
    ));
    let flexible = [spec("a", &[1], DType::Flex32)];
    assert!(matches!(refuse(&flexible), Error::UnsupportedSave { .. }));
    assert!(!target.exists());
}

#[test]
fn own_metadata_are_kept_beside_the_format() {
    let folder = TempDir::new().unwrap();
    let metadata = BTreeMap::from([("producer".to_owned(), "flametune".to_owned())]);
    save_safetensors(folder.path(), &[], 10, &metadata, |s| Ok(values(s))).unwrap();
    let checkpoint = SafetensorsCheckpoint::open(folder.path()).unwrap();
    assert!(checkpoint.names().is_empty());
    assert_eq!(checkpoint.metadata()["producer"], "flametune");
    assert_eq!(checkpoint.metadata()["format"], "pt");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_io_error() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = save_safetensors(file.join("model"), &specs(), 99, &BTreeMap::new(), |s| {
        Ok(values(s))
    })
    .unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}
