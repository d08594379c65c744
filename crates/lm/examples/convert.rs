//! Copies the weights of a checkpoint into another folder, in another type or in shards.
//!
//! `cargo run -p flametune-lm --example convert -- IN OUT f32|f16|bf16 MAX_SHARD_BYTES`

use std::collections::BTreeMap;
use std::env;
use std::error::Error;

use burn::tensor::DType;
use flametune_lm::{SafetensorsCheckpoint, TensorSource, TensorSpec, save_safetensors};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [input, output, dtype, max_shard_bytes] = arguments.as_slice() else {
        return Err("four arguments expected: IN OUT f32|f16|bf16 MAX_SHARD_BYTES".into());
    };
    let dtype = match dtype.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => return Err(format!("unknown type {other}").into()),
    };

    let source = SafetensorsCheckpoint::open(input)?;
    let tensors: Vec<TensorSpec> = source
        .names()
        .into_iter()
        .filter_map(|name| {
            let shape = source.info(&name)?.shape;
            Some(TensorSpec { name, shape, dtype })
        })
        .collect();
    let metadata = BTreeMap::new();
    save_safetensors(
        output,
        &tensors,
        max_shard_bytes.parse()?,
        &metadata,
        |tensor| source.read(&tensor.name, tensor.dtype),
    )?;
    Ok(())
}
