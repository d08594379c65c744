use proptest::prelude::*;

use super::*;

/// A file with the given header text and data.
fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(data);
    bytes
}

/// The error of a file with the given header text and number of data bytes.
fn fault(header: &str, data_bytes: usize) -> HeaderError {
    Header::parse(&file(header.as_bytes(), &vec![0; data_bytes])).unwrap_err()
}

#[test]
fn tensors_come_in_file_order_with_absolute_ranges() {
    let text = r#"{"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},
        "__metadata__":{"format":"pt"},
        "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    let header = Header::parse(&file(text.as_bytes(), &[0; 8])).unwrap();
    let start = LENGTH_BYTES + text.len();
    assert_eq!(header.metadata["format"], "pt");
    let found: Vec<_> = header
        .tensors
        .iter()
        .map(|t| (t.name.as_str(), t.dtype, t.range.clone()))
        .collect();
    assert_eq!(
        found,
        [
            ("a", Dtype::F32, start..start + 4),
            ("b", Dtype::BF16, start + 4..start + 8)
        ]
    );
}

#[test]
fn empty_header_and_empty_tensor_are_fine() {
    assert!(Header::parse(&file(b"{}", &[])).unwrap().tensors.is_empty());
    let text = r#"{"a":{"dtype":"F32","shape":[2,0,3],"data_offsets":[0,0]}}"#;
    assert_eq!(
        Header::parse(&file(text.as_bytes(), &[])).unwrap().tensors[0].shape,
        [2, 0, 3]
    );
}

#[test]
fn short_files_name_their_length() {
    for bytes in [0, 1, 7] {
        let error = Header::parse(&vec![0; bytes]).unwrap_err();
        assert!(
            matches!(error, HeaderError::TooShort { bytes: b } if b == bytes),
            "{error}"
        );
    }
}

#[test]
fn header_length_beyond_the_limit_or_the_file_is_refused() {
    let error = Header::parse(&u64::MAX.to_le_bytes()).unwrap_err();
    assert!(matches!(
        error,
        HeaderError::TooLarge {
            bytes: u64::MAX,
            limit: 100_000_000
        }
    ));
    let mut bytes = 100_000_001_u64.to_le_bytes().to_vec();
    bytes.extend([b' '; 100]);
    assert!(matches!(
        Header::parse(&bytes).unwrap_err(),
        HeaderError::TooLarge { .. }
    ));
    let mut bytes = 60_u64.to_le_bytes().to_vec();
    bytes.extend([b'{'; 10]);
    let error = Header::parse(&bytes).unwrap_err();
    assert!(
        matches!(
            error,
            HeaderError::Truncated {
                header_bytes: 60,
                available: 10
            }
        ),
        "{error}"
    );
}

#[test]
fn headers_that_are_not_text_or_not_json_are_refused() {
    let error = Header::parse(&file(&[0xff, 0xfe], &[])).unwrap_err();
    assert!(matches!(error, HeaderError::NotUtf8 { .. }), "{error}");
    for text in [
        "",
        "{",
        "[]",
        "{} {}",
        r#"{"a":1}"#,
        r#"{"a":{"dtype":"F32"}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"__metadata__":{"format":1}}"#,
    ] {
        let error = fault(text, 4);
        assert!(
            matches!(error, HeaderError::InvalidJson { .. }),
            "{text}: {error}"
        );
    }
    let nested = format!("{{\"a\":{}", "[".repeat(100_000));
    assert!(matches!(fault(&nested, 0), HeaderError::InvalidJson { .. }));
}

#[test]
fn repeated_names_are_refused() {
    let text = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
        "a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    assert!(matches!(fault(text, 2), HeaderError::RepeatedTensor { tensor } if tensor == "a"));
}

#[test]
fn unknown_types_are_refused() {
    let error = fault(
        r#"{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}}"#,
        4,
    );
    assert_eq!(error.to_string(), "tensor `a` has the unknown type `F7`");
}

#[test]
fn overlaps_gaps_and_backward_offsets_are_refused() {
    let pair = |first: [usize; 2], second: [usize; 2]| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":{first:?}}},
            "b":{{"dtype":"F32","shape":[1],"data_offsets":{second:?}}}}}"#
        )
    };
    let error = fault(&pair([0, 4], [2, 6]), 6);
    assert_eq!(
        error.to_string(),
        "tensor `b` must begin at byte 4, where the one before it ends, got 2"
    );
    let error = fault(&pair([0, 4], [8, 12]), 12);
    assert!(
        matches!(
            error,
            HeaderError::WrongBegin {
                expected: 4,
                begin: 8,
                ..
            }
        ),
        "{error}"
    );
    let error = fault(&pair([0, 4], [0, 4]), 4);
    assert!(
        matches!(
            error,
            HeaderError::WrongBegin {
                expected: 4,
                begin: 0,
                ..
            }
        ),
        "{error}"
    );
    let error = fault(&pair([0, 4], [8, 4]), 8);
    assert!(
        matches!(
            error,
            HeaderError::BackwardOffsets {
                begin: 8,
                end: 4,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn shapes_that_contradict_the_offsets_are_refused() {
    let error = fault(
        r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}}"#,
        12,
    );
    assert_eq!(
        error.to_string(),
        "tensor `a` needs 16 bytes for its shape, its offsets give 12"
    );
    // [2^32, 2^33] overflows the number of elements, [2^63] the number of bits.
    for shape in ["[4294967296,8589934592]", "[9223372036854775808]"] {
        let error = fault(
            &format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}"#),
            4,
        );
        assert!(
            matches!(error, HeaderError::ImpossibleShape { .. }),
            "{error}"
        );
    }
    // Three 4-bit elements are a byte and a half.
    let error = fault(
        r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#,
        1,
    );
    assert!(
        matches!(error, HeaderError::ImpossibleShape { .. }),
        "{error}"
    );
}

#[test]
fn data_must_fill_the_file_exactly() {
    let text = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    for bytes in [0, 7, 9, 1000] {
        let error = fault(text, bytes);
        assert!(
            matches!(error, HeaderError::DataLength { expected: 8, got } if got == bytes),
            "{error}"
        );
    }
}

#[test]
fn sizes_near_the_end_of_the_address_space_are_refused() {
    // Eight tensors of 2^61 - 1 bytes: each can be counted, and so can their sum.
    let bytes = (1_usize << 61) - 1;
    let entries: Vec<_> = (0..8)
        .map(|i| {
            let (begin, end) = (i * bytes, (i + 1) * bytes);
            format!(r#""t{i}":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[{begin},{end}]}}"#)
        })
        .collect();
    let error = fault(&format!("{{{}}}", entries.join(",")), 16);
    assert!(matches!(error, HeaderError::DataLength { .. }), "{error}");
}

proptest! {
    /// Whatever bytes change, parsing returns, and what it accepts lies within the file.
    #[test]
    fn mutated_files_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        keep in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let text = br#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;
        let mut bytes = file(text, &[7; 22]);
        for (index, value) in flips {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if truncate {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Ok(header) = Header::parse(&bytes) {
            for tensor in header.tensors {
                prop_assert_eq!(
                    bytes.get(tensor.range).map(<[u8]>::len),
                    byte_count(&tensor.shape, tensor.dtype)
                );
            }
        }
    }

    /// Any text in place of the header is refused or accepted, never a panic.
    #[test]
    fn arbitrary_headers_never_panic(text in "[{}\\[\\]\":,0-9a-zA-Z_ ]{0,80}", data in 0_usize..16) {
        let _ = Header::parse(&file(text.as_bytes(), &vec![0; data]));
    }
}
