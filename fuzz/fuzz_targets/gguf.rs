//! Any bytes as a GGUF file: opening, reading every tensor and the vocabulary never panics.
//!
//! `fixtures/gguf` makes a good corpus.

#![no_main]

use flametune_quant::gguf::{GgufFile, GgufVocabulary};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = GgufFile::from_bytes("fuzz.gguf", data.to_vec()) else {
        return;
    };
    let _ = GgufVocabulary::read(file.metadata());
    for tensor in file.tensors() {
        let _ = file.dequantize(tensor.name());
    }
});
