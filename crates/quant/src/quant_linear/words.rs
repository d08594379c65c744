//! Bytes as 32-bit words on a device, the first byte lowest.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// Bytes as words, the last one padded with zeros.
pub(super) fn upload(bytes: &[u8], device: &Device) -> Tensor<1, Int> {
    let (whole, rest) = bytes.as_chunks::<4>();
    let mut words: Vec<u32> = Vec::with_capacity(bytes.len().div_ceil(4));
    words.extend(whole.iter().map(|&word| u32::from_le_bytes(word)));
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        words.push(u32::from_le_bytes(last));
    }
    let shape = [words.len()];
    Tensor::from_data(TensorData::new(words, shape), (device, DType::U32))
}

/// The first `len` bytes of the words.
pub(super) fn download(words: &Tensor<1, Int>, len: usize) -> Vec<u8> {
    let words = words.clone().into_data();
    let mut bytes: Vec<u8> = match words.as_slice::<u32>() {
        Ok(words) => words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        // A device may hold them as integers of another width.
        Err(_) => words.iter::<u32>().flat_map(u32::to_le_bytes).collect(),
    };
    bytes.truncate(len);
    bytes
}

/// Numbers as f32 on a device, whatever the device's own choice of type.
pub(super) fn floats(numbers: TensorData, device: &Device) -> Tensor<1> {
    Tensor::from_data(numbers, (device, DType::F32))
}
