use burn::tensor::{DType, Int, Tensor};

/// What a code of a [`PackedWeight`] stands for.
#[allow(clippy::large_enum_variant, reason = "there is one of it in a weight")]
#[derive(Debug, Clone)]
pub enum CodeFormat {
    /// Four bits: an index into 16 numbers, `codebook[code]·scale` (NF4, FP4).
    FourBit {
        /// The 16 numbers, f32.
        codebook: Tensor<1>,
    },
    /// Eight bits in two's complement: `code·scale / 127`.
    Int8,
}

/// The scale of every block of a [`PackedWeight`].
#[allow(clippy::large_enum_variant, reason = "there is one of it in a weight")]
#[derive(Debug, Clone)]
pub enum PackedScales {
    /// `[n_blocks]`, f32.
    Absmax(Tensor<1>),
    /// Quantized in turn: `map[code]·absmax + offset`.
    Nested {
        /// Four 8-bit codes a word, as [`PackedWeight::codes`]: `[⌈n_blocks / 4⌉]`, u32.
        codes: Tensor<1, Int>,
        /// What an 8-bit code stands for: `[256]`, f32.
        map: Tensor<1>,
        /// The scale of every `block_size` codes: `[⌈n_blocks / block_size⌉]`, f32.
        absmax: Tensor<1>,
        /// The mean that the scales were centred on.
        offset: f32,
        /// The codes that share a second-level scale.
        block_size: usize,
    },
}

/// A frozen weight `[d_out, d_in]` as codes and scales on a device.
///
/// Number `i` of the flattened, row-major matrix has code `i` and the scale of block
/// `i / block_size`; blocks run across the ends of rows, and the last may be shorter.
///
/// # Shapes
/// - `codes`: u32 words, each four bytes of the stored codes, the first byte lowest. Of the two
///   4-bit codes in a byte the first has the upper half. `[⌈numel / 8⌉]` for four bits,
///   `[⌈numel / 4⌉]` for eight; bits past the last code are ignored
///
/// # Source
/// - reference: bitsandbytes `functional.py::quantize_4bit`, the order of its packed bytes
#[derive(Debug, Clone)]
pub struct PackedWeight {
    codes: Tensor<1, Int>,
    scales: PackedScales,
    format: CodeFormat,
    shape: [usize; 2],
    block_size: usize,
}

impl PackedWeight {
    /// Puts the parts together; all on one device.
    ///
    /// # Panics
    /// When a part has another dtype or length than the shape asks for, or `block_size` is zero.
    pub fn new(
        shape: [usize; 2],
        block_size: usize,
        format: CodeFormat,
        codes: Tensor<1, Int>,
        scales: PackedScales,
    ) -> Self {
        let numel = shape[0] * shape[1];
        assert!(block_size > 0, "packed weight: block_size must not be 0");
        let per_word = match &format {
            CodeFormat::FourBit { codebook } => {
                check(
                    "codebook",
                    codebook.dtype(),
                    DType::F32,
                    codebook.dims(),
                    16,
                );
                8
            }
            CodeFormat::Int8 => 4,
        };
        let words = numel.div_ceil(per_word);
        check("codes", codes.dtype(), DType::U32, codes.dims(), words);
        let n_blocks = numel.div_ceil(block_size);
        match &scales {
            PackedScales::Absmax(absmax) => {
                check(
                    "absmax",
                    absmax.dtype(),
                    DType::F32,
                    absmax.dims(),
                    n_blocks,
                );
            }
            PackedScales::Nested {
                codes,
                map,
                absmax,
                block_size,
                ..
            } => {
                assert!(
                    *block_size > 0,
                    "packed weight: nested block_size must not be 0"
                );
                let (words, outer) = (n_blocks.div_ceil(4), n_blocks.div_ceil(*block_size));
                check(
                    "nested codes",
                    codes.dtype(),
                    DType::U32,
                    codes.dims(),
                    words,
                );
                check("nested map", map.dtype(), DType::F32, map.dims(), 256);
                check(
                    "nested absmax",
                    absmax.dtype(),
                    DType::F32,
                    absmax.dims(),
                    outer,
                );
            }
        }
        Self {
            codes,
            scales,
            format,
            shape,
            block_size,
        }
    }

    /// The packed codes.
    pub fn codes(&self) -> &Tensor<1, Int> {
        &self.codes
    }

    /// The scales of the blocks.
    pub fn scales(&self) -> &PackedScales {
        &self.scales
    }

    /// What a code stands for.
    pub fn format(&self) -> &CodeFormat {
        &self.format
    }

    /// `[d_out, d_in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The numbers that share a scale.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// `d_out·d_in`.
    pub fn numel(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

fn check(part: &str, dtype: DType, expected: DType, [len]: [usize; 1], expected_len: usize) {
    assert_eq!(dtype, expected, "packed weight: dtype of {part}");
    assert_eq!(len, expected_len, "packed weight: length of {part}");
}
