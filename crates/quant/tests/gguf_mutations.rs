//! Damaged files: whatever happens to the bytes, the answer is a file or an error.

use flametune_quant::gguf::{GgufFile, GgufVocabulary};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::gguf_golden::fixture;

fn valid(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

/// Uses everything that a file offers; a size that does not fit the file would abort here.
fn use_everything(bytes: Vec<u8>) {
    let file_bytes = bytes.len();
    let Ok(file) = GgufFile::from_bytes("damaged.gguf", bytes) else {
        return;
    };
    let _ = GgufVocabulary::read(file.metadata());
    for tensor in file.tensors() {
        assert!(tensor.bytes() <= file_bytes);
        // The densest type holds 256 elements in 84 bytes.
        assert!(tensor.elements() <= file_bytes * 4, "{}", tensor.name());
        let _ = file.dequantize(tensor.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn changed_bytes(changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..8)) {
        let mut bytes = valid("llama.gguf");
        // Most of the file is weights; the header is where damage can mislead.
        let header = 4096.min(bytes.len());
        for (at, value) in changes {
            bytes[at.index(header)] = value;
        }
        use_everything(bytes);
    }

    #[test]
    fn changed_words(changes in prop::collection::vec((any::<Index>(), any::<u64>(), 0u32..64), 1..4)) {
        let mut bytes = valid("all_types.gguf");
        let header = 2600.min(bytes.len() - 8);
        for (at, value, shift) in changes {
            let at = at.index(header);
            bytes[at..at + 8].copy_from_slice(&(value >> shift).to_le_bytes());
        }
        use_everything(bytes);
    }

    #[test]
    fn cut_short(end in any::<Index>()) {
        let mut bytes = valid("all_types.gguf");
        // The writer pads the last tensor to the alignment of 64; that may be missing.
        bytes.truncate(end.index(bytes.len() - 64));
        prop_assert!(GgufFile::from_bytes("short.gguf", bytes.clone()).is_err());
        use_everything(bytes);
    }

    #[test]
    fn noise_behind_the_magic(noise in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(noise);
        use_everything(bytes);
    }
}
