//! Tensors of a safetensors fixture, as bytes and as numbers.

use std::path::Path;

use flametune_quant::{Map8, NestedScales, QuantConfig, quantize};
use flametune_testkit::fixture_path;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

/// The tensors of one file: name, element type, shape, bytes.
pub(crate) struct Golden(Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl Golden {
    pub(crate) fn open(path: impl AsRef<Path>) -> Self {
        let bytes = std::fs::read(fixture_path(path)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        Self(
            tensors
                .iter()
                .map(|(name, view)| {
                    (
                        name.to_owned(),
                        view.dtype(),
                        view.shape().to_vec(),
                        view.data().to_vec(),
                    )
                })
                .collect(),
        )
    }

    /// All of name, element type, shape and bytes.
    pub(crate) fn tensors(&self) -> &[(String, Dtype, Vec<usize>, Vec<u8>)] {
        &self.0
    }

    fn tensor(&self, name: &str) -> &(String, Dtype, Vec<usize>, Vec<u8>) {
        let found = self.0.iter().find(|(found, ..)| found == name);
        found.unwrap_or_else(|| panic!("there is no {name}"))
    }

    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.tensor(name).2
    }

    pub(crate) fn bytes(&self, name: &str) -> &[u8] {
        &self.tensor(name).3
    }

    /// The numbers of a floating-point tensor.
    pub(crate) fn f32s(&self, name: &str) -> Vec<f32> {
        let (_, dtype, _, bytes) = self.tensor(name);
        let (pairs, _) = bytes.as_chunks::<2>();
        let (quads, _) = bytes.as_chunks::<4>();
        match dtype {
            Dtype::F32 => quads.iter().map(|&x| f32::from_le_bytes(x)).collect(),
            Dtype::F16 => pairs
                .iter()
                .map(|&x| f16::from_le_bytes(x).into())
                .collect(),
            Dtype::BF16 => pairs
                .iter()
                .map(|&x| bf16::from_le_bytes(x).into())
                .collect(),
            _ => panic!("{name} is {dtype}"),
        }
    }

    /// Asserts that `got` equals a tensor of f32 numbers bit for bit.
    #[track_caller]
    pub(crate) fn assert_bits(&self, name: &str, got: &[f32]) {
        assert_eq!(self.tensor(name).1, Dtype::F32, "{name}");
        let expected = self.f32s(name);
        assert_eq!(got.len(), expected.len(), "{name}");
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_eq!(
                got.to_bits(),
                expected.to_bits(),
                "{name}[{index}]: {got} is not {expected}"
            );
        }
    }
}

/// Asserts that the scales of `input` have the codes that bitsandbytes gave them.
///
/// Ours are the nearest; its CPU kernel goes through a table of 2^16 entries over `[-1, 1]` and
/// may take a neighbour that is farther away by no more than the table's step.
#[track_caller]
pub(crate) fn assert_scale_codes(
    nested: &NestedScales,
    input: &[f32],
    config: QuantConfig,
    expected: &[u8],
) {
    let plain = QuantConfig {
        double_quant: false,
        ..config
    };
    let packed = quantize(input, &[input.len()], plain).unwrap();
    let map = Map8::dynamic_signed();
    assert_eq!(nested.codes().codes().len(), expected.len());
    for (index, scale) in packed.scales().absmax().iter().enumerate() {
        let (got, expected) = (nested.codes().codes()[index], expected[index]);
        let scaled = (scale - nested.offset()) / nested.codes().absmax()[index / 256];
        let distance = |code| (map.decode(code) - scaled).abs();
        let excess = distance(expected) - distance(got);
        assert!(
            got == expected || (0.0..=2.0_f32.powi(-15)).contains(&excess),
            "code {index} is {got}, not {expected}: nearer by {excess}"
        );
    }
}
