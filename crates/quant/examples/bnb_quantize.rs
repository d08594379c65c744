//! Quantizes the weights of a safetensors file to bitsandbytes' 4-bit layout:
//! `bnb_quantize IN OUT [nf4|fp4] [BLOCK_SIZE] [plain|double]`.
//!
//! F32, F16 and BF16 matrices that `should_quantize` names are quantized; the rest is copied.
#![allow(
    clippy::print_stdout,
    reason = "a program that prints is the point of the example"
)]

use std::collections::BTreeMap;
use std::error::Error;

use flametune_quant::{QuantConfig, QuantKind, WeightDtype, bnb_layout, quantize, should_quantize};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(input), Some(output)) = (arguments.first(), arguments.get(1)) else {
        return Err("usage: bnb_quantize IN OUT [nf4|fp4] [BLOCK_SIZE] [plain|double]".into());
    };
    let kind = match arguments.get(2).map(String::as_str) {
        None | Some("nf4") => QuantKind::Nf4,
        Some("fp4") => QuantKind::Fp4,
        Some(other) => return Err(format!("{other} is neither nf4 nor fp4").into()),
    };
    let block_size = arguments.get(3).map_or(Ok(64), |size| size.parse())?;
    let double_quant = arguments.get(4).map(String::as_str) != Some("plain");

    let bytes = std::fs::read(input)?;
    let mut weights = BTreeMap::new();
    let mut copied = Vec::new();
    for (name, view) in SafeTensors::deserialize(&bytes)?.iter() {
        match (should_quantize(name) && view.shape().len() == 2).then(|| numbers(&view)) {
            Some(Some((dtype, numbers))) => {
                let config = QuantConfig {
                    kind,
                    block_size,
                    double_quant,
                    dtype,
                };
                let packed = quantize(&numbers, view.shape(), config)?;
                println!("{name}: {:.3} bits per parameter", packed.bits_per_param());
                weights.insert(name.to_owned(), packed);
            }
            _ => copied.push((name.to_owned(), view)),
        }
    }

    let mut parts = Vec::new();
    for (name, packed) in &weights {
        parts.extend(bnb_layout::write(name, packed)?);
    }
    let mut stored = copied;
    for (name, part) in &parts {
        let view = TensorView::new(part.dtype, part.shape.clone(), &part.bytes)?;
        stored.push((name.clone(), view));
    }
    serialize_to_file(stored, None, output.as_ref())?;
    Ok(())
}

/// The elements of a floating-point tensor in f32.
fn numbers(view: &TensorView<'_>) -> Option<(WeightDtype, Vec<f32>)> {
    let (pairs, _) = view.data().as_chunks::<2>();
    let (quads, _) = view.data().as_chunks::<4>();
    Some(match view.dtype() {
        Dtype::F32 => (
            WeightDtype::F32,
            quads.iter().map(|&x| f32::from_le_bytes(x)).collect(),
        ),
        Dtype::F16 => (
            WeightDtype::F16,
            pairs
                .iter()
                .map(|&x| f16::from_le_bytes(x).into())
                .collect(),
        ),
        Dtype::BF16 => (
            WeightDtype::Bf16,
            pairs
                .iter()
                .map(|&x| bf16::from_le_bytes(x).into())
                .collect(),
        ),
        _ => return None,
    })
}
