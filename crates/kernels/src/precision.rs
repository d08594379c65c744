/// How exactly a matrix product multiplies.
///
/// A property of the product, not of its tensors: activations and weights stay as they are in
/// memory, and sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Operands enter the product as they are: f32 activations as f32.
    #[default]
    Full,
    /// Both operands are rounded to bf16 as they enter the product, to nearest, ties to even.
    ///
    /// Twice as fast where the processor multiplies bf16 pairs (AVX512-BF16); on other processors
    /// the same numbers, without the gain. A device without bf16 multiplies as with
    /// [`Full`](Self::Full).
    Bf16,
}
