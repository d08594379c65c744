use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::HeaderError;

/// A file with one-dimensional `F32` tensors of the given names, all of `[1.0, 2.0]`.
fn file(names: &[&str]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut data = Vec::new();
    for name in names {
        let begin = data.len();
        data.extend([1.0_f32, 2.0].iter().flat_map(|x| x.to_le_bytes()));
        entries.push(format!(
            r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{begin},{}]}}"#,
            data.len()
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend(data);
    bytes
}

/// A folder with the given files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn open_error(files: &[(&str, &[u8])]) -> Error {
    SafetensorsCheckpoint::open(folder(files).path()).unwrap_err()
}

#[test]
fn one_file_is_read_from_its_folder_and_by_its_own_path() {
    let folder = folder(&[(SINGLE_FILE, &file(&["b", "a"]))]);
    for path in [folder.path().to_owned(), folder.path().join(SINGLE_FILE)] {
        let checkpoint = SafetensorsCheckpoint::open(path).unwrap();
        assert_eq!(checkpoint.names(), ["a", "b"]);
        let info = checkpoint.info("a").unwrap();
        assert_eq!(
            (info.shape, info.dtype, info.bytes),
            (vec![2], "F32".to_owned(), 8)
        );
        let read = checkpoint.read("a", DType::F32).unwrap();
        assert_eq!(read, TensorData::from([1.0_f32, 2.0]));
    }
}

#[test]
fn shards_are_read_through_their_index() {
    let index =
        br#"{"metadata":{"total_size":24},"weight_map":{"a":"1.st","b":"2.st","c":"1.st"}}"#;
    let folder = folder(&[
        (INDEX_FILE, index),
        ("1.st", &file(&["a", "c"])),
        ("2.st", &file(&["b"])),
    ]);
    for path in [folder.path().to_owned(), folder.path().join(INDEX_FILE)] {
        let checkpoint = SafetensorsCheckpoint::open(path).unwrap();
        assert_eq!(checkpoint.names(), ["a", "b", "c"]);
        assert_eq!(
            checkpoint.info("b").unwrap().file,
            folder.path().join("2.st")
        );
        assert_eq!(
            checkpoint.info("c").unwrap().file,
            folder.path().join("1.st")
        );
        assert_eq!(
            checkpoint.read("c", DType::F32).unwrap(),
            TensorData::from([1.0_f32, 2.0])
        );
    }
}

#[test]
fn a_folder_without_weights_says_what_was_looked_for() {
    let error = open_error(&[("config.json", b"{}")]);
    assert!(
        matches!(&error, Error::NoWeights { looked_for, .. } if looked_for.len() == 2),
        "{error}"
    );
    let error = SafetensorsCheckpoint::open("no such folder").unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path == Path::new("no such folder")));
}

#[test]
fn broken_headers_name_the_file() {
    let mut bytes = file(&["a"]);
    bytes.truncate(bytes.len() - 1);
    let folder = folder(&[(SINGLE_FILE, &bytes), ("empty", b"")]);
    let error = SafetensorsCheckpoint::open(folder.path()).unwrap_err();
    let expected = folder.path().join(SINGLE_FILE);
    assert!(
        matches!(&error, Error::InvalidSafetensors { file, source: HeaderError::DataLength { expected: 8, got: 7 } } if *file == expected),
        "{error}"
    );
    let error = SafetensorsCheckpoint::open(folder.path().join("empty")).unwrap_err();
    assert!(matches!(
        error,
        Error::InvalidSafetensors {
            source: HeaderError::TooShort { bytes: 0 },
            ..
        }
    ));
}

#[test]
fn index_to_a_missing_shard_is_refused() {
    let error = open_error(&[
        (INDEX_FILE, br#"{"weight_map":{"a":"1.st","b":"2.st"}}"#),
        ("1.st", &file(&["a"])),
    ]);
    let Error::InvalidIndex {
        source: IndexError::MissingShard { tensor, shard },
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((tensor.as_str(), shard.as_str()), ("b", "2.st"));
}

#[test]
fn index_that_leaves_the_folder_is_refused() {
    let outside = folder(&[("secret", &file(&["a"]))]);
    let inside = outside.path().join("model");
    fs::create_dir(&inside).unwrap();
    fs::write(
        inside.join(INDEX_FILE),
        r#"{"weight_map":{"a":"../secret"}}"#,
    )
    .unwrap();
    let error = SafetensorsCheckpoint::open(&inside).unwrap_err();
    assert!(
        matches!(&error, Error::InvalidIndex { source: IndexError::OutsideFolder { shard, .. }, .. } if shard == "../secret"),
        "{error}"
    );
}

#[test]
fn tensor_missing_from_its_shard_is_refused() {
    // In no shard at all, and in another than the index says.
    for (first, second) in [(&["a"][..], &["c"][..]), (&["a", "b"], &["c"])] {
        let error = open_error(&[
            (
                INDEX_FILE,
                br#"{"weight_map":{"a":"1.st","b":"2.st","c":"2.st"}}"#,
            ),
            ("1.st", &file(first)),
            ("2.st", &file(second)),
        ]);
        let Error::MissingTensor { name, file } = &error else {
            panic!("{error}")
        };
        assert!(name == "b" && file.ends_with("2.st"), "{error}");
    }
}

#[test]
fn tensor_stored_in_two_shards_is_refused() {
    let error = open_error(&[
        (INDEX_FILE, br#"{"weight_map":{"a":"1.st","b":"2.st"}}"#),
        ("1.st", &file(&["a"])),
        ("2.st", &file(&["b", "a"])),
    ]);
    let Error::DuplicateTensor {
        name,
        first,
        second,
    } = &error
    else {
        panic!("{error}")
    };
    assert!(
        name == "a" && first.ends_with("1.st") && second.ends_with("2.st"),
        "{error}"
    );
}

#[test]
fn index_that_is_not_one_is_refused() {
    let error = open_error(&[(INDEX_FILE, b"{")]);
    assert!(matches!(
        error,
        Error::InvalidIndex {
            source: IndexError::InvalidJson(_),
            ..
        }
    ));
}

#[test]
fn index_of_absurd_length_is_not_read() {
    let folder = TempDir::new().unwrap();
    let index = fs::File::create(folder.path().join(INDEX_FILE)).unwrap();
    index.set_len(1 << 40).unwrap();
    let error = SafetensorsCheckpoint::open(folder.path()).unwrap_err();
    assert!(matches!(
        error,
        Error::InvalidIndex {
            source: IndexError::TooLarge { .. },
            ..
        }
    ));
}

#[test]
fn reading_what_is_not_there_or_not_convertible_is_refused() {
    let header = br#"{"q":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend([0; 8]);
    let folder = folder(&[(SINGLE_FILE, &bytes)]);
    let checkpoint = SafetensorsCheckpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.bytes("q").unwrap(), [0; 8]);

    let error = checkpoint.read("q", DType::F32).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: tensor `q` is stored as F8_E4M3, which cannot be read as f32",
            folder.path().join(SINGLE_FILE).display()
        )
    );
    let error = checkpoint.read("nope", DType::F32).unwrap_err();
    assert!(matches!(error, Error::MissingTensor { name, .. } if name == "nope"));
    assert!(checkpoint.info("nope").is_none() && checkpoint.bytes("nope").is_none());
}

#[test]
fn every_fixture_model_equals_the_reference_reader() {
    for folder in fs::read_dir(flametune_testkit::fixture_path("models")).unwrap() {
        let folder = folder.unwrap().path();
        let checkpoint = SafetensorsCheckpoint::open(&folder).unwrap();
        let bytes = fs::read(folder.join(SINGLE_FILE)).unwrap();
        let reference = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(checkpoint.names().len(), reference.len());
        for (name, view) in reference.iter() {
            assert_eq!(checkpoint.bytes(name).unwrap(), view.data(), "{name}");
            assert_eq!(checkpoint.info(name).unwrap().shape, view.shape(), "{name}");
            assert_eq!(
                checkpoint.info(name).unwrap().dtype,
                view.dtype().to_string(),
                "{name}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes of a checkpoint change, opening and reading all of it returns.
    #[test]
    fn mutated_checkpoints_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        in_index in any::<bool>(),
    ) {
        let mut index = br#"{"weight_map":{"a":"1.st","b":"2.st"}}"#.to_vec();
        let mut shard = file(&["a"]);
        let target = if in_index { &mut index } else { &mut shard };
        for (at, value) in flips {
            let at = at.index(target.len());
            target[at] = value;
        }
        let folder = folder(&[(INDEX_FILE, &index), ("1.st", &shard), ("2.st", &file(&["b"]))]);
        if let Ok(checkpoint) = SafetensorsCheckpoint::open(folder.path()) {
            for name in checkpoint.names() {
                let _ = checkpoint.read(&name, DType::BF16);
            }
        }
    }
}
