//! Files under `fixtures/`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, SafeTensors};

/// The path of a file or folder under `fixtures/`.
///
/// # Panics
/// When it does not exist.
#[track_caller]
pub fn fixture_path(relative: impl AsRef<Path>) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(relative.as_ref());
    assert!(
        path.exists(),
        "there is no fixture {}",
        relative.as_ref().display()
    );
    path
}

/// The text of a fixture.
///
/// # Panics
/// When it does not exist or is not UTF-8.
#[track_caller]
pub fn fixture_text(relative: impl AsRef<Path>) -> String {
    match std::fs::read_to_string(fixture_path(relative.as_ref())) {
        Ok(text) => text,
        Err(error) => panic!("fixture {}: {error}", relative.as_ref().display()),
    }
}

/// A JSON fixture.
///
/// # Panics
/// When it does not exist or is not JSON.
#[track_caller]
pub fn fixture_json(relative: impl AsRef<Path>) -> serde_json::Value {
    match serde_json::from_str(&fixture_text(relative.as_ref())) {
        Ok(value) => value,
        Err(error) => panic!("fixture {}: {error}", relative.as_ref().display()),
    }
}

/// All tensors of a safetensors fixture, in the types they are stored in.
///
/// # Panics
/// When the file does not exist, is broken, or holds a type without a counterpart in Burn.
#[track_caller]
pub fn fixture_safetensors(relative: impl AsRef<Path>) -> HashMap<String, TensorData> {
    let name = relative.as_ref().display();
    let bytes = match std::fs::read(fixture_path(relative.as_ref())) {
        Ok(bytes) => bytes,
        Err(error) => panic!("fixture {name}: {error}"),
    };
    let tensors = match SafeTensors::deserialize(&bytes) {
        Ok(tensors) => tensors,
        Err(error) => panic!("fixture {name}: {error}"),
    };
    tensors
        .iter()
        .map(|(tensor, view)| {
            let Some(dtype) = burn_dtype(view.dtype()) else {
                panic!("fixture {name}: `{tensor}` has type {}", view.dtype());
            };
            let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape(), dtype);
            (tensor.to_owned(), data)
        })
        .collect()
}

fn burn_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        // Booleans come as bytes, zero or one.
        Dtype::U8 | Dtype::BOOL => DType::U8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_tensors_keep_their_types_and_shapes() {
        let golden = fixture_safetensors("models/llama/golden.safetensors");
        assert_eq!(golden["input_ids"].dtype(), DType::I64);
        assert_eq!(golden["input_ids"].shape().as_slice(), [2, 20]);
        assert_eq!(golden["logits"].dtype(), DType::F32);
        assert_eq!(golden["logits"].shape().as_slice(), [2, 20, 272]);
        assert_eq!(golden["logits_bf16"].dtype(), DType::BF16);
    }

    #[test]
    fn config_is_read_as_json() {
        assert_eq!(
            fixture_json("models/llama/config.json")["model_type"],
            "llama"
        );
    }
}
