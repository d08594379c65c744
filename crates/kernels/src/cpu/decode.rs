use std::ops::Range;

use half::bf16;

/// A frozen matrix whose numbers come out a part at a time: dense rows, or packed codes.
pub(crate) trait Decode: Sync {
    /// Rows and columns.
    fn shape(&self) -> [usize; 2];

    /// Writes the numbers of `rows` × `cols` to `out`, row-major.
    ///
    /// # Panics
    /// When the part lies outside the matrix, or `out` has another length.
    fn decode(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]);

    /// [`decode`](Self::decode), rounded to bf16 (to nearest, ties to even), as bits.
    ///
    /// # Panics
    /// As [`decode`](Self::decode).
    fn decode_bf16(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16]);

    /// The matrix where it lies, if it is bf16 in memory: its values, and the distance between
    /// neighbouring rows. Saves the copy that [`decode_bf16`](Self::decode_bf16) makes.
    fn bf16_rows(&self) -> Option<(&[bf16], usize)> {
        None
    }

    /// The same of a matrix that is f32 in memory.
    fn f32_rows(&self) -> Option<(&[f32], usize)> {
        None
    }
}
