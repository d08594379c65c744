//! A GGUF file of a model.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::DType;
use flametune_lm::{
    AdapterPass, CausalLm, Checkpoint, GgufCheckpoint, GgufPart, GgufPlan, GgufSource, NamedTensor,
};
use flametune_quant::gguf::{
    Array, GgmlType, GgufFile, GgufSpec, Value, dequantize_into, quantize, write_gguf,
};

use super::probes::{compare, logps};
use crate::{model, text};

/// Writes the model with matrices of type `kind`.
pub(super) fn export(
    model: &CausalLm,
    checkpoint: &Checkpoint,
    output: &Path,
    kind: GgmlType,
    max_kl: f64,
) -> Result<()> {
    if output
        .extension()
        .is_none_or(|extension| extension != "gguf")
    {
        bail!("the output must be a .gguf file, got {}", output.display());
    }
    if output.is_file() && same_file(checkpoint.config().path(), output) {
        bail!("the output file is that of the base");
    }
    let expected = logps(model, &AdapterPass::default())?;
    let tensors: BTreeMap<String, NamedTensor> = model
        .named_tensors()?
        .into_iter()
        .map(|tensor| (tensor.name.clone(), tensor))
        .collect();
    let shapes: Vec<_> = tensors
        .values()
        .map(|tensor| (tensor.name.clone(), tensor.shape.clone()))
        .collect();
    let plan = GgufPlan::new(checkpoint.config(), &shapes)?;
    let specs: Vec<GgufSpec> = plan
        .tensors
        .iter()
        .map(|part| GgufSpec {
            name: part.name.clone(),
            shape: part.shape.clone(),
            kind: kind_of(part, kind),
        })
        .collect();
    let mut pairs = plan.metadata.clone();
    pairs.extend(general(output, kind));
    pairs.extend(vocabulary(checkpoint, model.vocab_size())?);
    let parts: BTreeMap<&str, &GgufPart> = plan
        .tensors
        .iter()
        .map(|part| (part.name.as_str(), part))
        .collect();
    let staged = write_gguf(output, &pairs, &specs, |spec| {
        let part = parts
            .get(spec.name.as_str())
            .ok_or_else(|| anyhow!("{} was not planned", spec.name))?;
        numbers(part, &tensors)
    })
    .with_context(|| format!("cannot write {}", output.display()))?;

    let file = GgufFile::open(staged.path()).context("cannot read back what was written")?;
    let written = GgufCheckpoint::from_file(file)?;
    let written = Checkpoint::from_gguf(written)?;
    compare_tensors(&plan, &specs, &tensors, &written)?;
    let again = model::load(&written, &super::options(DType::F32))?;
    let kl = compare(expected, logps(&again, &AdapterPass::default())?, max_kl)?;
    drop((written, again));
    let bytes = staged.bytes();
    staged.publish()?;
    writeln!(
        io::stderr(),
        "{}: {bytes} bytes, {kind}, divergence {kl:.1e} nats a token",
        output.display()
    )?;
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Vectors stay in f32. Embeddings and heads, which four bits harm most, get eight in those types;
/// rows that are no whole blocks of Q4_K get Q5_0 as in llama.cpp, and what fits neither gets F16.
fn kind_of(part: &GgufPart, kind: GgmlType) -> GgmlType {
    let row = part.shape.last().copied().unwrap_or(0);
    if part.shape.len() < 2 {
        return GgmlType::F32;
    }
    let outside = matches!(part.name.as_str(), "token_embd.weight" | "output.weight");
    let wanted = match kind {
        GgmlType::Q4_0 | GgmlType::Q4_K if outside => GgmlType::Q8_0,
        kind => kind,
    };
    let fallback = match wanted {
        GgmlType::Q4_K => GgmlType::Q5_0,
        other => other,
    };
    let fits = |kind: &GgmlType| row.is_multiple_of(kind.block_elements());
    [wanted, fallback]
        .into_iter()
        .find(fits)
        .unwrap_or(GgmlType::F16)
}

/// What llama.cpp calls the kind of a file, `LLAMA_FTYPE`.
fn file_type(kind: GgmlType) -> u32 {
    match kind {
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q8_0 => 7,
        // "mostly Q4_K, small".
        GgmlType::Q4_K => 14,
        GgmlType::BF16 => 32,
        _ => 0,
    }
}

fn general(output: &Path, kind: GgmlType) -> Vec<(String, Value)> {
    let name = output.file_stem().unwrap_or_default().to_string_lossy();
    vec![
        ("general.type".to_owned(), Value::String("model".to_owned())),
        ("general.name".to_owned(), Value::String(name.into_owned())),
        ("general.file_type".to_owned(), Value::U32(file_type(kind))),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ]
}

/// The tokenizer: as it stands in the header of a GGUF base, or from the files of a folder.
fn vocabulary(checkpoint: &Checkpoint, vocab_size: usize) -> Result<Vec<(String, Value)>> {
    if let Some(gguf) = checkpoint.gguf() {
        let pairs = gguf.file().metadata().iter();
        return Ok(pairs
            .filter(|(key, _)| key.starts_with("tokenizer."))
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect());
    }
    let tokenizer = text::tokenizer(checkpoint).context("cannot read the tokenizer")?;
    let vocab = tokenizer.to_gguf(vocab_size)?;
    let mut pairs = vec![
        ("tokenizer.ggml.model", Value::String(vocab.model)),
        (
            "tokenizer.ggml.tokens",
            Value::Array(Array::String(vocab.tokens)),
        ),
        (
            "tokenizer.ggml.merges",
            Value::Array(Array::String(vocab.merges)),
        ),
    ];
    pairs.extend(
        vocab
            .pre
            .map(|pre| ("tokenizer.ggml.pre", Value::String(pre))),
    );
    let types = vocab
        .token_types
        .map(|types| Value::Array(Array::I32(types)));
    pairs.extend(types.map(|types| ("tokenizer.ggml.token_type", types)));
    for (key, id) in [
        ("tokenizer.ggml.bos_token_id", vocab.bos_token_id),
        ("tokenizer.ggml.eos_token_id", vocab.eos_token_id),
        ("tokenizer.ggml.eot_token_id", vocab.eot_token_id),
        ("tokenizer.ggml.unknown_token_id", vocab.unknown_token_id),
        ("tokenizer.ggml.padding_token_id", vocab.padding_token_id),
    ] {
        pairs.extend(id.map(|id| (key, Value::U32(id))));
    }
    for (key, add) in [
        ("tokenizer.ggml.add_bos_token", vocab.add_bos_token),
        ("tokenizer.ggml.add_eos_token", vocab.add_eos_token),
    ] {
        pairs.extend(add.map(|add| (key, Value::Bool(add))));
    }
    let template = vocab.chat_template.map(Value::String);
    pairs.extend(template.map(|template| ("tokenizer.chat_template", template)));
    Ok(pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
}

/// Checks that every tensor reads back as what its type makes of the model's numbers, to the bit.
///
/// Rows are packed one by one, so their order in the file has no part in what is expected.
fn compare_tensors(
    plan: &GgufPlan,
    specs: &[GgufSpec],
    tensors: &BTreeMap<String, NamedTensor>,
    written: &Checkpoint,
) -> Result<()> {
    for (part, spec) in plan.tensors.iter().zip(specs) {
        let GgufSource::Tensor { name, .. } = &part.source else {
            continue;
        };
        let exact = plain(name, tensors)?;
        let mut expected = vec![0.0; exact.len()];
        dequantize_into(spec.kind, &quantize(spec.kind, &exact)?, &mut expected)?;
        let read = written.tensors().read(name, DType::F32)?;
        let same = read
            .iter::<f32>()
            .map(f32::to_bits)
            .eq(expected.iter().map(|x| x.to_bits()));
        if !same {
            bail!("{name} does not read back as it was written; nothing was published");
        }
    }
    Ok(())
}

/// The numbers of a tensor of the model.
fn plain(name: &str, tensors: &BTreeMap<String, NamedTensor>) -> Result<Vec<f32>> {
    let tensor = tensors
        .get(name)
        .ok_or_else(|| anyhow!("{name} is not in the model"))?;
    let data = tensor.data().convert::<f32>();
    data.try_into_vec::<f32>()
        .map_err(|error| anyhow!("{name}: {error:?}"))
}

/// The numbers of a part, in the file's order.
fn numbers(part: &GgufPart, tensors: &BTreeMap<String, NamedTensor>) -> Result<Vec<f32>> {
    match &part.source {
        GgufSource::Numbers(numbers) => Ok(numbers.clone()),
        GgufSource::Tensor { name, rows } => {
            let values = plain(name, tensors)?;
            let width = part.shape.iter().skip(1).product();
            Ok(rows.arrange(values, width))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_fit_their_rows() {
        let kind = |name: &str, shape: &[usize], kind| {
            let part = GgufPart {
                name: name.to_owned(),
                shape: shape.to_vec(),
                source: GgufSource::Numbers(Vec::new()),
            };
            kind_of(&part, kind)
        };
        let matrix = "blk.0.ffn_up.weight";
        for (shape, wanted, got) in [
            (&[4usize, 256][..], GgmlType::Q4_K, GgmlType::Q4_K),
            (&[4, 96], GgmlType::Q4_K, GgmlType::Q5_0),
            (&[4, 20], GgmlType::Q4_K, GgmlType::F16),
            (&[4, 20], GgmlType::Q8_0, GgmlType::F16),
            (&[256], GgmlType::Q4_K, GgmlType::F32),
            (&[4, 20], GgmlType::BF16, GgmlType::BF16),
        ] {
            assert_eq!(kind(matrix, shape, wanted), got, "{shape:?}");
        }
        assert_eq!(
            kind("output.weight", &[4, 256], GgmlType::Q4_0),
            GgmlType::Q8_0
        );
    }
}
