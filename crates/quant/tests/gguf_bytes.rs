//! Writing GGUF files by hand, right ones and wrong ones.

/// The bytes of a file in the making; nothing is checked.
#[derive(Clone)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    /// A header with these counts.
    pub(crate) fn header(version: u32, n_tensors: u64, n_pairs: u64) -> Self {
        Self(b"GGUF".to_vec())
            .u32(version)
            .u64(n_tensors)
            .u64(n_pairs)
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn string(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// A pair whose value is a `u32`.
    pub(crate) fn pair(self, key: &str, value: u32) -> Self {
        self.string(key).u32(4).u32(value)
    }

    pub(crate) fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let head = self.string(name).u32(dims.len() as u32);
        dims.iter()
            .fold(head, |bytes, &dim| bytes.u64(dim))
            .u32(kind)
            .u64(offset)
    }

    /// Padding to the alignment of 32, then this much data.
    pub(crate) fn data(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + bytes, 0);
        self
    }
}
