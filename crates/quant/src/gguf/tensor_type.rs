//! The element types of GGUF tensors and their block sizes.

use std::fmt;

macro_rules! ggml_types {
    ($($name:ident = $code:literal, $text:literal, $elements:literal in $bytes:expr;)+) => {
        /// How the elements of a GGUF tensor are stored.
        ///
        /// Elements come in blocks of a fixed number that take a fixed number of bytes; a plain
        /// number is a block of one. All of ggml's current types are known here, so that files
        /// that hold them can be opened and described; which of them can be turned into numbers is
        /// told by [`can_dequantize`](super::can_dequantize).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "the names by which the types are known")]
        #[non_exhaustive]
        pub enum GgmlType {
            $(#[doc = concat!("`", $text, "`: blocks of ", stringify!($elements), ", `",
                stringify!($bytes), "` bytes each.")] $name,)+
        }

        impl GgmlType {
            /// The type with this number, if there is one.
            pub fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The type's number in a file.
            pub fn code(self) -> u32 {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// The type's name, such as `Q4_K`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The elements of a block.
            pub fn block_elements(self) -> usize {
                match self {
                    $(Self::$name => $elements,)+
                }
            }

            /// The bytes of a block.
            pub fn block_bytes(self) -> usize {
                match self {
                    $(Self::$name => $bytes,)+
                }
            }
        }
    };
}

ggml_types! {
    F32 = 0, "F32", 1 in 4;
    F16 = 1, "F16", 1 in 2;
    Q4_0 = 2, "Q4_0", 32 in 2 + 16;
    Q4_1 = 3, "Q4_1", 32 in 2 + 2 + 16;
    Q5_0 = 6, "Q5_0", 32 in 2 + 4 + 16;
    Q5_1 = 7, "Q5_1", 32 in 2 + 2 + 4 + 16;
    Q8_0 = 8, "Q8_0", 32 in 2 + 32;
    Q8_1 = 9, "Q8_1", 32 in 4 + 4 + 32;
    Q2_K = 10, "Q2_K", 256 in 16 + 64 + 2 + 2;
    Q3_K = 11, "Q3_K", 256 in 32 + 64 + 12 + 2;
    Q4_K = 12, "Q4_K", 256 in 2 + 2 + 12 + 128;
    Q5_K = 13, "Q5_K", 256 in 2 + 2 + 12 + 32 + 128;
    Q6_K = 14, "Q6_K", 256 in 128 + 64 + 16 + 2;
    Q8_K = 15, "Q8_K", 256 in 4 + 256 + 32;
    IQ2_XXS = 16, "IQ2_XXS", 256 in 2 + 64;
    IQ2_XS = 17, "IQ2_XS", 256 in 2 + 64 + 8;
    IQ3_XXS = 18, "IQ3_XXS", 256 in 2 + 64 + 32;
    IQ1_S = 19, "IQ1_S", 256 in 2 + 32 + 16;
    IQ4_NL = 20, "IQ4_NL", 32 in 2 + 16;
    IQ3_S = 21, "IQ3_S", 256 in 2 + 64 + 32 + 8 + 4;
    IQ2_S = 22, "IQ2_S", 256 in 2 + 64 + 16;
    IQ4_XS = 23, "IQ4_XS", 256 in 2 + 2 + 128 + 4;
    I8 = 24, "I8", 1 in 1;
    I16 = 25, "I16", 1 in 2;
    I32 = 26, "I32", 1 in 4;
    I64 = 27, "I64", 1 in 8;
    F64 = 28, "F64", 1 in 8;
    IQ1_M = 29, "IQ1_M", 256 in 32 + 16 + 8;
    BF16 = 30, "BF16", 1 in 2;
    TQ1_0 = 34, "TQ1_0", 256 in 2 + 4 * 13;
    TQ2_0 = 35, "TQ2_0", 256 in 2 + 64;
    MXFP4 = 39, "MXFP4", 32 in 1 + 16;
    NVFP4 = 40, "NVFP4", 64 in 4 + 32;
    Q1_0 = 41, "Q1_0", 128 in 2 + 16;
}

impl GgmlType {
    /// The bytes that `elements` take, or `None` when they are not whole blocks or too many.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// The storage cost of one element, scales included.
    pub fn bits_per_element(self) -> f64 {
        (self.block_bytes() * 8) as f64 / self.block_elements() as f64
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_types_are_each_others_inverse() {
        let known: Vec<_> = (0..100).filter_map(GgmlType::from_code).collect();
        assert_eq!(known.len(), 34);
        for kind in known {
            assert_eq!(GgmlType::from_code(kind.code()), Some(kind));
        }
    }

    #[test]
    fn bits_per_element_are_the_published_ones() {
        for (kind, bits) in [
            (GgmlType::Q4_0, 4.5),
            (GgmlType::Q4_1, 5.0),
            (GgmlType::Q5_0, 5.5),
            (GgmlType::Q8_0, 8.5),
            (GgmlType::Q2_K, 2.625),
            (GgmlType::Q3_K, 3.4375),
            (GgmlType::Q4_K, 4.5),
            (GgmlType::Q5_K, 5.5),
            (GgmlType::Q6_K, 6.5625),
            (GgmlType::BF16, 16.0),
        ] {
            assert_eq!(kind.bits_per_element(), bits, "{kind}");
        }
    }

    #[test]
    fn bytes_are_counted_in_whole_blocks() {
        assert_eq!(GgmlType::Q4_0.bytes(64), Some(36));
        assert_eq!(GgmlType::Q4_0.bytes(65), None);
        assert_eq!(GgmlType::F64.bytes(usize::MAX / 4), None);
    }
}
