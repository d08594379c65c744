//! Readers against files that are whole, and files that are not.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, TimestampSecondArray,
};
use arrow::datatypes::{DataType, Field, Fields};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::Error;

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn read(path: &Path, start: u64) -> Vec<Result<Record>> {
    read_with(path, &ReadOptions::default(), start)
}

fn read_with(path: &Path, options: &ReadOptions, start: u64) -> Vec<Result<Record>> {
    match open_records(path, options, start) {
        Ok(records) => records.collect(),
        Err(error) => vec![Err(error)],
    }
}

/// Rows as JSON, errors as text without the folder.
fn shown(path: &Path, records: &[Result<Record>]) -> Vec<String> {
    let folder = format!("{}/", path.parent().unwrap().display());
    records
        .iter()
        .map(|record| match record {
            Ok(record) => format!("{} {}", record.at, Value::Object(record.row.clone())),
            Err(error) => format!("error {error}"),
        })
        .map(|text| text.replace(&folder, ""))
        .collect()
}

fn check(name: &str, bytes: &[u8], expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, name, bytes);
    assert_eq!(shown(&path, &read(&path, 0)), expected, "{name}");
}

#[test]
fn json_lines_know_their_lines_and_go_on_after_a_broken_one() {
    check(
        "a.jsonl",
        b"\xef\xbb\xbf{\"a\": 1}\r\n\n{\"a\": \n[1]\n{\"a\": \"\xff\"}\n{\"a\": 2}",
        &[
            r#"a.jsonl:1 {"a":1}"#,
            "error a.jsonl:3 (record 2): expected a JSON object, got broken JSON in column 6: EOF while parsing a value",
            "error a.jsonl:4 (record 3): expected a JSON object, got a list",
            "error a.jsonl:5 (record 4): expected a JSON object, got broken JSON in column 8: invalid unicode code point",
            r#"a.jsonl:6 (record 5) {"a":2}"#,
        ],
    );
}

#[test]
fn long_lines_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(200_000));
    let path = write(
        &folder,
        "a.jsonl",
        format!("{long}\n{{\"a\": 2}}\n").as_bytes(),
    );
    let options = ReadOptions {
        max_record_bytes: 100_000,
        ..ReadOptions::default()
    };
    let records = read_with(&path, &options, 0);
    assert!(matches!(
        records[0],
        Err(Error::RecordTooLarge { limit: 100_000, .. })
    ));
    assert_eq!(records[1].as_ref().unwrap().row["a"], 2);
    let path = write(
        &folder,
        "a.json",
        format!("[{long}, {{\"a\": 2}}]").as_bytes(),
    );
    let records = read_with(&path, &options, 0);
    assert_eq!(
        shown(&path, &records),
        [
            "error a.json: damaged JSON after 0 records: line 1: the record is larger than the limit of 100000 bytes"
        ]
    );
    let path = write(
        &folder,
        "a.csv",
        format!("a,b\n1,2\n\"{}", "x,y\n".repeat(100_000)).as_bytes(),
    );
    let records = read_with(&path, &options, 0);
    assert_eq!(
        shown(&path, &records),
        [
            r#"a.csv:2 (record 1) {"a":"1","b":"2"}"#,
            "error a.csv: damaged CSV after 1 records: a record is larger than the limit of 100000 bytes",
        ]
    );
}

#[test]
fn json_documents_of_every_shape() {
    check(
        "a.json",
        b"[\n {\"a\": \"]}\\\"\"},\n {\"a\": {\"b\": [1, 2]}} , {} ]\n",
        &[
            r#"a.json:2 (record 1) {"a":"]}\""}"#,
            r#"a.json:3 (record 2) {"a":{"b":[1,2]}}"#,
            "a.json:3 {}",
        ],
    );
    check(
        "wrapped.json",
        br#"{"version": 1, "data": [{"a": 1}, {"a": 2}], "more": {"x": ["]"]}}"#,
        &[
            r#"wrapped.json:1 {"a":1}"#,
            r#"wrapped.json:1 (record 2) {"a":2}"#,
        ],
    );
    check(
        "one.json",
        b"{\"data\": [\"q\", \"a\"],\n \"id\": 1}",
        &[r#"one.json:1 {"data":["q","a"],"id":1}"#],
    );
    check(
        "lines.json",
        b"{\"a\": 1}\n{\"a\": 2}\n",
        &[r#"lines.json:1 {"a":1}"#, r#"lines.json:2 {"a":2}"#],
    );
    check("empty.json", b" []\n", &[]);
    check("nothing.json", b"", &[]);
}

#[test]
fn broken_json_documents_say_where() {
    check(
        "a.json",
        b"[{\"a\": 1},\n{\"a\": }, 7, {\"a\": 3}",
        &[
            r#"a.json:1 {"a":1}"#,
            "error a.json:2: expected a JSON object, got broken JSON in column 7: expected value",
            "error a.json:2 (record 3): expected a JSON object, got a number",
            r#"a.json:2 (record 4) {"a":3}"#,
            "error a.json: damaged JSON after 4 records: the file ends early, on line 2",
        ],
    );
    check(
        "a.json",
        b"[{\"a\": 1}\n {\"a\": 2}]",
        &[
            r#"a.json:1 {"a":1}"#,
            "error a.json:2:2: expected ',' or ']', got '{'",
        ],
    );
    check(
        "a.json",
        b"[{\"a\": 1},]",
        &[
            r#"a.json:1 {"a":1}"#,
            "error a.json:1:11: expected a record, got ']'",
        ],
    );
    check(
        "a.json",
        b"hello",
        &["error a.json:1:1: expected a list or an object, got 'h'"],
    );
    check(
        "a.json",
        b"{\"a\" 1}",
        &["error a.json:1:6: expected ':', got '1'"],
    );
    check(
        "a.json",
        b"{\"data\": [{\"a\": 1}], ",
        &[
            r#"a.json:1 {"a":1}"#,
            "error a.json: damaged JSON after 1 records: the file ends early, on line 1",
        ],
    );
    let deep = format!("[{}{}]", "[".repeat(10_000), "]".repeat(10_000));
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "deep.json", deep.as_bytes());
    assert!(matches!(
        read(&path, 0)[..],
        [Err(Error::InvalidRecord { .. })]
    ));
}

#[test]
fn cells_of_csv_and_tsv_are_text() {
    check(
        "a.csv",
        b"q,a\n\"x, \"\"y\"\"\nz\",1\nonly\n\xff,2\nlast,3\n",
        &[
            r#"a.csv:2 (record 1) {"q":"x, \"y\"\nz","a":"1"}"#,
            "error a.csv:4 (record 2): expected 2 cells as in the header, got 1",
            "error a.csv:5 (record 3): expected UTF-8 text in column \"q\", got invalid utf-8 sequence of 1 bytes from index 0",
            r#"a.csv:6 (record 4) {"q":"last","a":"3"}"#,
        ],
    );
    check(
        "a.tsv",
        b"q\ta\nx, y\t1\n",
        &[r#"a.tsv:2 (record 1) {"q":"x, y","a":"1"}"#],
    );
    check(
        "a.csv",
        b"q,q\n1,2\n",
        &["error a.csv: damaged CSV after 0 records: the header names \"q\" twice"],
    );
}

#[test]
fn text_is_read_by_file_paragraph_or_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.txt", b"\n one\ntwo\n\n\nthree \n");
    let texts = |unit, start| {
        let options = ReadOptions {
            text_unit: unit,
            ..ReadOptions::default()
        };
        read_with(&path, &options, start)
            .into_iter()
            .map(|record| {
                let record = record.unwrap();
                (
                    record.at.line.unwrap(),
                    record.row["text"].as_str().unwrap().to_owned(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts(TextUnit::File, 0),
        [(2, " one\ntwo\n\n\nthree".into())]
    );
    assert_eq!(
        texts(TextUnit::Paragraph, 0),
        [(2, " one\ntwo".into()), (6, "three".into())]
    );
    assert_eq!(
        texts(TextUnit::Line, 1),
        [(3, "two".into()), (6, "three".into())]
    );
}

#[test]
fn gzip_and_zstd_are_known_by_their_bytes_and_truncation_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..5000).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    for (name, bytes, kind) in [("a.jsonl.gz", gzip, "gzip"), ("b.jsonl", zstd, "zstd")] {
        let path = write(&folder, name, &bytes);
        let records = read(&path, 4998);
        assert_eq!(records.len(), 2);
        assert_eq!(
            records[1].as_ref().unwrap().at.to_string(),
            format!("{}:5000", path.display())
        );
        let path = write(&folder, name, &bytes[..bytes.len() / 2]);
        let records = read(&path, 0);
        let error = records.last().unwrap().as_ref().unwrap_err();
        assert!(
            matches!(error, Error::DamagedFile { kind: told, .. } if *told == kind),
            "{error}"
        );
        assert!(!error.concerns_one_record());
    }
}

fn batch() -> RecordBatch {
    let turns = StructArray::from(vec![
        (
            Arc::new(Field::new("role", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec!["user", "assistant", "user"])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("content", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("q"), Some("a"), None])) as ArrayRef,
        ),
    ]);
    let fields = Fields::from(vec![
        Field::new("role", DataType::Utf8, true),
        Field::new("content", DataType::Utf8, true),
    ]);
    let list = ListArray::new(
        Arc::new(Field::new("item", DataType::Struct(fields), true)),
        arrow::buffer::OffsetBuffer::from_lengths([2, 1]),
        Arc::new(turns),
        None,
    );
    RecordBatch::try_from_iter_with_nullable(vec![
        ("messages", Arc::new(list) as ArrayRef, true),
        (
            "n",
            Arc::new(Int64Array::from(vec![Some(7), None])) as ArrayRef,
            true,
        ),
        (
            "x",
            Arc::new(Float64Array::from(vec![0.5, f64::NAN])) as ArrayRef,
            true,
        ),
        (
            "yes",
            Arc::new(BooleanArray::from(vec![true, false])) as ArrayRef,
            true,
        ),
        (
            "when",
            Arc::new(TimestampSecondArray::from(vec![0, 60])) as ArrayRef,
            true,
        ),
        (
            "picture",
            Arc::new(BinaryArray::from(vec![b"\x89PNG" as &[u8], b""])) as ArrayRef,
            true,
        ),
    ])
    .unwrap()
}

fn columnar_files(folder: &TempDir) -> [PathBuf; 3] {
    let batch = batch();
    let path = |name: &str| folder.path().join(name);
    let file = |name: &str| File::create(path(name)).unwrap();
    let mut parquet =
        parquet::arrow::ArrowWriter::try_new(file("a.parquet"), batch.schema(), None).unwrap();
    parquet.write(&batch).unwrap();
    parquet.close().unwrap();
    let schema = batch.schema();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(file("a.feather"), &schema).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(file("a.arrow"), &schema).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    [path("a.parquet"), path("a.feather"), path("a.arrow")]
}

#[test]
fn columns_become_json_values_and_bytes_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    for path in columnar_files(&folder) {
        let records = read(&path, 0);
        let first = records[0].as_ref().unwrap();
        assert_eq!(
            Value::Object(first.row.clone()),
            json!({
                "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                "n": 7, "x": 0.5, "yes": true, "when": "1970-01-01T00:00:00"
            }),
            "{}",
            path.display()
        );
        assert_eq!(first.left_out[0].column, "picture");
        let rest = read(&path, 1);
        assert_eq!(rest.len(), 1);
        let second = rest[0].as_ref().unwrap();
        assert_eq!(second.row["n"], Value::Null);
        assert_eq!(second.row["x"], Value::Null);
        assert_eq!(second.at.to_string(), format!("{}, row 2", path.display()));
        assert!(read(&path, 2).is_empty());
        assert!(read(&path, 99).is_empty());
    }
}

#[test]
fn files_are_found_and_sorted() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "b.jsonl",
        "a.jsonl.gz",
        "README.md",
        ".hidden.jsonl",
        "dataset_info.json",
        "x.bin",
    ] {
        write(&folder, name, b"{}");
    }
    let names = |path: &str| -> Vec<String> {
        find_files(path)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    let root = folder.path().to_str().unwrap().to_owned();
    assert_eq!(names(&root), ["a.jsonl.gz", "b.jsonl"]);
    assert_eq!(
        names(&format!("{root}/*.jsonl")),
        [".hidden.jsonl", "b.jsonl"]
    );
    write(&folder, "c.csv", b"");
    assert!(
        matches!(find_files(&root), Err(Error::MixedFolder { kinds, .. }) if kinds == ["jsonl", "csv"])
    );
    for missing in ["/nowhere.jsonl", "/*.parquet", "/[.jsonl"] {
        assert!(matches!(
            find_files(&format!("{root}{missing}")),
            Err(Error::NoFiles { .. })
        ));
    }
}

#[test]
fn kinds_are_known_without_an_extension() {
    let folder = tempfile::tempdir().unwrap();
    for (bytes, kind) in [
        (&b"[{}]"[..], FileKind::Json),
        (b"{}\n{}\n", FileKind::Jsonl),
        (b"PAR1", FileKind::Parquet),
        (b"ARROW1", FileKind::Arrow),
    ] {
        let path = write(&folder, "file", bytes);
        assert_eq!(FileKind::of(&path).unwrap(), kind);
    }
    let path = write(&folder, "file", b"hello");
    assert!(matches!(
        FileKind::of(&path),
        Err(Error::UnknownFileKind { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a file holds, reading it ends, and nothing follows an error that ends a file.
    #[test]
    fn any_bytes_end_in_records_or_errors(
        bytes in proptest::collection::vec(prop_oneof![
            4 => prop::sample::select(b"[]{}\",:\\ \n\tae1".to_vec()),
            1 => any::<u8>(),
        ], 0..400),
        start in 0_u64..4,
    ) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.arrow", "a"] {
            let path = write(&folder, name, &bytes);
            let records = read(&path, start);
            prop_assert!(records.len() < 1000);
            for record in records.iter().rev().skip(1) {
                if let Err(error) = record {
                    prop_assert!(error.concerns_one_record(), "{name}: {error}");
                }
            }
        }
    }

    /// A damaged copy of a whole columnar file gives records or errors.
    #[test]
    fn damaged_columnar_files_are_errors(place in 0.0..1.0_f64, flip in 1_u8.., cut in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        for path in columnar_files(&folder) {
            let mut bytes = std::fs::read(&path).unwrap();
            #[allow(clippy::cast_possible_truncation, reason = "below the length of the file")]
            let at = (place * bytes.len() as f64) as usize;
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= flip;
            }
            std::fs::write(&path, &bytes).unwrap();
            for record in read(&path, 0) {
                if let Err(error) = record {
                    prop_assert!(matches!(error, Error::DamagedFile { .. } | Error::Io { .. }), "{error}");
                }
            }
        }
    }

    /// Starting at a record gives what follows it, in every kind of file.
    #[test]
    fn starting_later_gives_the_tail(count in 0_usize..12, start in 0_u64..14) {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<String> = (0..count).map(|n| format!("{{\"n\": \"{n}\"}}")).collect();
        let cells: String = (0..count).map(|n| format!("{n},x\n")).collect();
        for (name, text) in [
            ("a.jsonl", rows.join("\n")),
            ("a.json", format!("[{}]", rows.join(","))),
            ("b.json", format!("{{\"rows\": [{}]}}", rows.join(",\n"))),
            ("a.csv", format!("n,m\n{cells}")),
            ("a.txt", rows.join("\n\n")),
        ] {
            let path = write(&folder, name, text.as_bytes());
            let all = shown(&path, &read(&path, 0));
            prop_assert_eq!(all.len(), count);
            let from = all.len().min(usize::try_from(start).unwrap());
            prop_assert_eq!(&shown(&path, &read(&path, start))[..], &all[from..]);
        }
    }
}
