//! Files that lie: each gets the error that names the lie.

use flametune_quant::Error;
use flametune_quant::gguf::GgufFile;

use crate::gguf_bytes::Bytes;

const F32: u32 = 0;
const Q4_0: u32 = 2;

fn open(bytes: Bytes) -> Result<GgufFile, Error> {
    GgufFile::from_bytes("m.gguf", bytes.0)
}

fn message(bytes: Bytes) -> String {
    open(bytes).unwrap_err().to_string()
}

#[test]
fn a_right_file_opens() {
    let bytes = Bytes::header(3, 2, 1)
        .pair("general.alignment", 32)
        .tensor("a", &[4, 2], F32, 0)
        .tensor("b", &[32], Q4_0, 32)
        .data(50);
    let file = open(bytes).unwrap();
    assert_eq!(file.tensor_bytes("b").unwrap().len(), 18);
    assert_eq!(
        file.tensor_bytes("c").unwrap_err().to_string(),
        "m.gguf: tensor `c` is missing"
    );
}

#[test]
fn an_empty_file_of_nothing_opens() {
    let file = open(Bytes::header(3, 0, 0)).unwrap();
    assert_eq!(
        (file.tensors().len(), file.metadata().iter().count()),
        (0, 0)
    );
}

#[test]
fn magic_and_version() {
    assert_eq!(
        message(Bytes(b"PK\x03\x04 and more".to_vec())),
        "m.gguf: not a GGUF file, the first bytes are \"PK\\u{3}\\u{4}\""
    );
    assert_eq!(
        message(Bytes(b"GG".to_vec())),
        "m.gguf: header at byte 0 needs 4 bytes, the file has 2 left"
    );
    assert_eq!(
        message(Bytes::header(1, 0, 0)),
        "m.gguf: GGUF version 1 is not supported, expected 2 or 3"
    );
    assert_eq!(
        message(Bytes::header(3_u32.swap_bytes(), 0, 0)),
        "m.gguf: big-endian GGUF files are not supported, convert it to little-endian first"
    );
}

#[test]
fn counts_beyond_the_file() {
    assert_eq!(
        message(Bytes::header(3, u64::MAX, 0)),
        "m.gguf: header announces 18446744073709551615 items, the rest of the file can hold 0"
    );
    assert!(matches!(
        open(Bytes::header(3, 0, 1 << 40)),
        Err(Error::CountTooLarge { .. })
    ));
    // A vocabulary of 2^61 tokens.
    let bytes = Bytes::header(3, 0, 1)
        .string("tokens")
        .u32(9)
        .u32(8)
        .u64(1 << 61);
    assert_eq!(
        message(bytes),
        "m.gguf: value of key `tokens` announces 2305843009213693952 items, the rest of the file can hold 0"
    );
}

#[test]
fn strings() {
    let bytes = Bytes::header(3, 0, 1)
        .u64(2)
        .raw(&[0xff, 0xfe])
        .u32(4)
        .u32(0);
    assert_eq!(
        message(bytes),
        "m.gguf: name of metadata pair 0 at byte 32 is not valid UTF-8"
    );
    let bytes = Bytes::header(3, 0, 1).u64(u64::MAX).raw(&[0; 8]);
    assert_eq!(
        message(bytes),
        "m.gguf: name of metadata pair 0 at byte 32 needs 18446744073709551615 bytes, the file has 8 left"
    );
}

#[test]
fn pairs() {
    let bytes = Bytes::header(3, 0, 2).pair("a", 1).pair("a", 2);
    assert_eq!(message(bytes), "m.gguf: key `a` stands there twice");
    let bytes = Bytes::header(3, 0, 1).string("a").u32(13).u64(0);
    assert_eq!(message(bytes), "m.gguf: key `a` has unknown value type 13");
    for alignment in [0, 24] {
        let bytes = Bytes::header(3, 0, 1).pair("general.alignment", alignment);
        assert_eq!(
            message(bytes),
            format!("m.gguf: key `general.alignment` must be a power of two, got {alignment}")
        );
    }
}

#[test]
fn tensor_descriptions() {
    let one = |name: &str, dims: &[u64], kind: u32, offset: u64| {
        message(
            Bytes::header(3, 1, 0)
                .tensor(name, dims, kind, offset)
                .data(64),
        )
    };
    assert_eq!(
        one("t", &[1; 5], F32, 0),
        "m.gguf: tensor `t` has 5 dimensions, at most 4 are allowed"
    );
    assert_eq!(
        one("t", &[1], 4, 0),
        "m.gguf: tensor `t` has unknown type 4"
    );
    assert_eq!(
        one("t", &[u64::MAX, 3], F32, 0),
        "m.gguf: tensor `t` has dimensions [18446744073709551615, 3], whose size overflows"
    );
    assert_eq!(
        one("t", &[31], Q4_0, 0),
        "m.gguf: tensor `t` has rows of 31 elements, Q4_0 needs a multiple of 32"
    );
    assert_eq!(
        one("t", &[1], F32, 4),
        "m.gguf: tensor `t` begins at offset 4, not a multiple of 32"
    );
    assert_eq!(
        one("t", &[17], F32, 0),
        "m.gguf: tensor `t` takes 68 bytes at offset 0 of the data section, which has 64"
    );
    assert_eq!(
        one("t", &[1], F32, u64::MAX - 31),
        "m.gguf: tensor `t` takes 4 bytes at offset 18446744073709551584 of the data section, which has 64"
    );
}

#[test]
fn tensors_together() {
    let two = |second: &str, offset| {
        Bytes::header(3, 2, 0)
            .tensor("a", &[16], F32, 0)
            .tensor(second, &[8], F32, offset)
            .data(96)
    };
    assert!(open(two("b", 64)).is_ok());
    assert_eq!(message(two("b", 32)), "m.gguf: tensors `a` and `b` overlap");
    assert_eq!(
        message(two("a", 64)),
        "m.gguf: tensor `a` stands there twice"
    );
}

#[test]
fn types_without_numbers_are_described_but_not_read() {
    let iq2_xs = 17;
    let bytes = Bytes::header(3, 1, 0)
        .tensor("t", &[256], iq2_xs, 0)
        .data(74);
    let file = open(bytes).unwrap();
    assert_eq!(file.tensors()[0].bytes(), 74);
    assert_eq!(
        file.dequantize("t").unwrap_err().to_string(),
        "m.gguf: tensor `t` is of type IQ2_XS, which cannot be dequantized"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = GgufFile::open("no/such.gguf").unwrap_err().to_string();
    assert!(error.starts_with("no/such.gguf: "), "{error}");
}
