//! Lists the metadata and tensors of a GGUF file: `gguf_info FILE`.
#![allow(
    clippy::print_stdout,
    reason = "a program that prints is the point of the example"
)]

use flametune_quant::gguf::GgufFile;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("usage: gguf_info FILE.gguf")?;
    let file = GgufFile::open(path)?;
    println!("GGUF version {}", file.version());
    for (key, value) in file.metadata().iter() {
        println!("{key} = {value}");
    }
    for tensor in file.tensors() {
        println!(
            "{} {:?} {} ({} bytes)",
            tensor.name(),
            tensor.shape(),
            tensor.kind(),
            tensor.bytes()
        );
    }
    Ok(())
}
