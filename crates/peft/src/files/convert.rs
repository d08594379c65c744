//! The same adapter in another number format.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, TensorData};

use super::load::{Stored, first_not_finite, read_file};
use super::save::write;
use super::{WEIGHTS_FILE, read_config};
use crate::error::{Error, Result};

/// Writes the adapter in folder `from` into folder `to` with tensors of `dtype`; returns the largest
/// relative change of a tensor, `‖converted − stored‖ / ‖stored‖`.
///
/// # Errors
/// Those of reading and writing; [`Error::NotFinite`] when a number is too large for `dtype`.
pub fn convert_adapter(from: impl AsRef<Path>, to: impl AsRef<Path>, dtype: DType) -> Result<f64> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let config = read_config(from)?;
    let file = from.join(WEIGHTS_FILE);
    let stored = Stored::read(&read_file(&file)?, file)?;
    let mut converted = BTreeMap::new();
    let mut largest = 0f64;
    for (name, data) in stored.tensors {
        let data_as = data.clone().convert_dtype(dtype);
        if let Some((index, value)) = first_not_finite(&data_as) {
            return Err(Error::NotFinite {
                tensor: name,
                file: to.join(WEIGHTS_FILE),
                index,
                value,
            });
        }
        largest = largest.max(relative_change(&data, &data_as));
        converted.insert(name, data_as);
    }
    write(to, &config, &converted, &BTreeMap::new())?;
    Ok(largest)
}

fn relative_change(old: &TensorData, new: &TensorData) -> f64 {
    let (mut change, mut size) = (0f64, 0f64);
    for (a, b) in old.iter::<f64>().zip(new.iter::<f64>()) {
        change += (a - b) * (a - b);
        size += a * a;
    }
    if change == 0.0 {
        0.0
    } else {
        (change / size).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flametune_testkit::fixture_path;

    #[test]
    fn halves_lose_what_their_mantissa_lacks_and_f32_nothing() {
        let golden = fixture_path("peft/lora_qv");
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(
            convert_adapter(&golden, at("f32"), DType::F32).unwrap(),
            0.0
        );
        for file in [WEIGHTS_FILE, super::super::CONFIG_FILE] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert!(read(&golden) == read(&at("f32")), "{file}");
        }
        // Rounding to 8 or 11 bits is off by at most half of the last one.
        let bf16 = convert_adapter(&golden, at("bf16"), DType::BF16).unwrap();
        assert!(bf16 > 1e-4 && bf16 < 1.0 / 256.0, "{bf16}");
        let f16 = convert_adapter(at("bf16"), at("f16"), DType::F16).unwrap();
        assert!(f16 < 1.0 / 2048.0, "{f16}");
    }
}
