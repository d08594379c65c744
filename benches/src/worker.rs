//! Our side of the race: reads requests, runs the model, writes replies.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::tensor::{DType, Device, Tensor};
use flametune_kernels::{Precision, in_pool};
use flametune_lm::{
    AdapterPass, CausalLm, Checkpoint, KvCache, LoadOptions, QuantizeOptions, TokenBatch,
};
use flametune_quant::{QuantConfig, QuantKind};

use crate::adapt::{load_one_more, mixed, put_on, save_first, score, switch, write_adapter};
use crate::cases::tokenizer;
use crate::evaluation;
use crate::operate::Prepared;
use crate::prepare_data::{Examples, Texts};
use crate::protocol::{Finished, Job, Number, Quantization, Reply, Request};
use crate::train::Training;

/// Shards of a saved model are never split: the peer then maps one file.
const ONE_SHARD: usize = usize::MAX;

/// Answers requests until the referee hangs up.
///
/// # Errors
/// When a request cannot be read or a reply cannot be written; what goes wrong while a request is
/// carried out is a [`Reply::Failed`].
pub fn serve(device: &Device, requests: impl BufRead, mut replies: impl Write) -> Result<()> {
    flametune_kernels::keep_freed_memory();
    let mut state = State::default();
    for line in requests.lines() {
        let request = serde_json::from_str(&line?).context("reading a request")?;
        let reply = carry_out(request, device, &mut state)
            .unwrap_or_else(|error| Reply::Failed(format!("{error:#}")));
        writeln!(replies, "{}", serde_json::to_string(&reply)?)?;
        replies.flush()?;
    }
    Ok(())
}

/// What requests leave behind for later ones.
#[derive(Default)]
struct State {
    loaded: Option<Loaded>,
    prepared: Option<Prepared>,
    training: Option<Training>,
    texts: Option<Texts>,
    examples: Option<Examples>,
}

struct Loaded {
    checkpoint: Checkpoint,
    model: CausalLm,
    /// Names of the adapters on the model.
    adapters: Vec<String>,
}

fn carry_out(
    request: Request,
    device: &Device,
    State {
        loaded,
        prepared,
        training,
        texts,
        examples,
    }: &mut State,
) -> Result<Reply> {
    let model = || "no model is loaded";
    match request {
        Request::Hello => {
            let version = env!("CARGO_PKG_VERSION");
            Ok(Reply::Hello(format!("flametune {version}")))
        }
        Request::Load {
            model,
            dtype,
            quantize,
            threads: _, // set before this process started, through RAYON_NUM_THREADS
        } => {
            *loaded = Some(in_pool(|| load(&model, dtype, quantize))?);
            Ok(Reply::Loaded)
        }
        Request::Generate(job) => {
            let loaded = loaded.as_ref().with_context(model)?;
            let finished = in_pool(|| generate(&loaded.model, &job))?;
            Ok(Reply::Finished(finished))
        }
        Request::Evaluate(wanted) => {
            let loaded = loaded.as_ref().with_context(model)?;
            let tokenizer = tokenizer(&loaded.checkpoint)?;
            let evaluated = evaluation::run(&loaded.model, &tokenizer, &wanted)?;
            Ok(Reply::Evaluated(evaluated))
        }
        Request::Operate(operation) => in_pool(|| {
            let operation = Prepared::new(operation, device, prepared.take())?;
            Ok(Reply::Operated(prepared.insert(operation).measure()?))
        }),
        Request::Train(wanted) => {
            *training = Some(in_pool(|| Training::new(&wanted))?);
            Ok(Reply::Loaded)
        }
        Request::Step(rows) => {
            let training = training.as_mut().context("nothing is in training")?;
            Ok(Reply::Stepped(in_pool(|| training.step(&rows))?))
        }
        Request::Adapter {
            model,
            folder,
            adapter,
        } => {
            write_adapter(&model, &folder, adapter)?;
            Ok(Reply::Saved)
        }
        Request::Adapters { folders } => {
            let loaded = loaded.as_mut().with_context(model)?;
            put_on(&mut loaded.model, &mut loaded.adapters, &folders)?;
            Ok(Reply::Loaded)
        }
        Request::Switch { token, passes } => {
            let loaded = loaded.as_ref().with_context(model)?;
            let timed = in_pool(|| switch(&loaded.model, &loaded.adapters, token, passes))?;
            Ok(Reply::Timed(timed))
        }
        Request::Mixed(rows) => {
            let loaded = loaded.as_ref().with_context(model)?;
            let timed = in_pool(|| mixed(&loaded.model, &loaded.adapters, &rows))?;
            Ok(Reply::Timed(timed))
        }
        Request::SaveAdapter { folder } => {
            let loaded = loaded.as_ref().with_context(model)?;
            Ok(Reply::Timed(save_first(
                &loaded.model,
                &loaded.adapters,
                &folder,
            )?))
        }
        Request::LoadAdapter { folder } => {
            let loaded = loaded.as_mut().with_context(model)?;
            Ok(Reply::Timed(load_one_more(&mut loaded.model, &folder)?))
        }
        Request::Score(rows) => {
            let loaded = loaded.as_ref().with_context(model)?;
            Ok(Reply::Scored(in_pool(|| score(&loaded.model, &rows))?))
        }
        Request::Tokenize { model, texts: all } => {
            let vocabulary = Texts::new(&model, texts.take())?;
            Ok(Reply::Tokenized(texts.insert(vocabulary).tokenize(&all)?))
        }
        Request::Pack { lengths, row } => {
            let made = Examples::new(lengths, examples.take());
            Ok(Reply::Packed(examples.insert(made).pack(row)?))
        }
        Request::Save { folder } => {
            let loaded = loaded.as_ref().with_context(model)?;
            let config = loaded.checkpoint.config();
            loaded.model.save_pretrained(folder, config, ONE_SHARD)?;
            Ok(Reply::Saved)
        }
    }
}

fn load(path: &Path, dtype: Number, quantize: Option<Quantization>) -> Result<Loaded> {
    let checkpoint = Checkpoint::open(path)?;
    let (weights, precision) = match dtype {
        Number::F32 => (DType::F32, Precision::Full),
        Number::Bf16 => (DType::BF16, Precision::Bf16),
    };
    let mut options =
        LoadOptions::new(&Device::flex(), weights, DType::F32).with_precision(precision);
    if let Some(quantization) = quantize {
        options = options.with_quantize(quantized(quantization));
    }
    let model = CausalLm::load(&checkpoint, &options, &mut |_| {})?;
    Ok(Loaded {
        checkpoint,
        model,
        adapters: Vec::new(),
    })
}

/// Every linear layer but the head.
pub(crate) fn quantized(quantization: Quantization) -> QuantizeOptions {
    let kind = match quantization {
        Quantization::Nf4 | Quantization::Nf4Double => QuantKind::Nf4,
        Quantization::Int8 => QuantKind::Int8,
    };
    QuantizeOptions::new(QuantConfig {
        kind,
        double_quant: quantization == Quantization::Nf4Double,
        ..QuantConfig::default()
    })
}

fn generate(model: &CausalLm, job: &Job) -> Result<Finished> {
    let length = job.prompts.first().map_or(0, Vec::len);
    let device = model.device();
    device.sync()?;

    let begin = Instant::now();
    let mut cache = model.new_cache(job.prompts.len(), length + job.decode_steps);
    let best = step(model, &job.prompts, &mut cache)?;
    device.sync()?;
    let prefill_s = begin.elapsed().as_secs_f64();

    let first_logits = best.iter().map(|&(_, logit)| logit).collect();
    let mut tokens: Vec<Vec<u32>> = best.iter().map(|&(token, _)| vec![token]).collect();
    let mut last = tokens.clone();
    let begin = Instant::now();
    for _ in 0..job.decode_steps {
        for (row, (token, _)) in step(model, &last, &mut cache)?.into_iter().enumerate() {
            tokens[row].push(token);
            last[row][0] = token;
        }
    }
    device.sync()?;
    Ok(Finished {
        prefill_s,
        decode_s: begin.elapsed().as_secs_f64(),
        tokens,
        first_logits,
    })
}

/// Takes tokens in; returns the best next token of each row and its logit.
fn step(model: &CausalLm, rows: &[Vec<u32>], cache: &mut KvCache) -> Result<Vec<(u32, f32)>> {
    let batch = TokenBatch::from_rows(rows)?;
    let base = AdapterPass::default();
    let hidden = model.forward(&batch, Some(cache), &base)?;
    let last = hidden.narrow(1, batch.seq() - 1, 1);
    let logits: Tensor<3> = model.logits(last, &base);
    let vocab = model.vocab_size();
    let logits = logits.into_data();
    let values = logits.as_slice::<f32>()?;
    ensure!(
        values.len() == rows.len() * vocab,
        "logits of another shape"
    );
    Ok(values.chunks_exact(vocab).map(best).collect())
}

/// The first of the greatest, as torch's `max` has it.
fn best(logits: &[f32]) -> (u32, f32) {
    // Eight independent maxima first: the compiler turns them into vector instructions.
    let mut lanes = [f32::NEG_INFINITY; 8];
    let (groups, rest) = logits.as_chunks::<8>();
    for group in groups {
        for (lane, &value) in lanes.iter_mut().zip(group) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let greatest = lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |most, &value| most.max(value));
    let index = logits.iter().position(|&value| value == greatest);
    (
        u32::try_from(index.unwrap_or(0)).unwrap_or(u32::MAX),
        greatest,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(requests: &[&str]) -> Vec<Reply> {
        let mut replies = Vec::new();
        serve(
            &Device::flex(),
            requests.join("\n").as_bytes(),
            &mut replies,
        )
        .unwrap();
        let text = String::from_utf8(replies).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn decoding_with_the_cache_continues_as_longer_prompts_would() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/models/llama");
        let load = format!(r#"{{"load":{{"model":"{model}","dtype":"f32","threads":1}}}}"#);
        let replies = ask(&[
            &load,
            r#"{"generate":{"prompts":[[1,2,3],[4,5,6]],"decode_steps":2}}"#,
        ]);
        let [Reply::Loaded, Reply::Finished(whole)] = &replies[..] else {
            panic!("{replies:?}");
        };
        for (row, prompt) in [vec![1, 2, 3], vec![4, 5, 6]].into_iter().enumerate() {
            let mut ids = prompt;
            for step in 0..3 {
                let job = Request::Generate(Job {
                    prompts: vec![ids.clone()],
                    decode_steps: 0,
                });
                let replies = ask(&[&load, &serde_json::to_string(&job).unwrap()]);
                let [_, Reply::Finished(one)] = &replies[..] else {
                    panic!("{replies:?}");
                };
                assert_eq!(one.tokens, [[whole.tokens[row][step]]]);
                ids.push(one.tokens[0][0]);
            }
        }
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let replies = ask(&[
            r#"{"generate":{"prompts":[[1]],"decode_steps":0}}"#,
            r#"{"load":{"model":"absent.gguf","dtype":"f32","threads":1}}"#,
        ]);
        let [Reply::Failed(unloaded), Reply::Failed(absent)] = &replies[..] else {
            panic!("{replies:?}");
        };
        assert_eq!(unloaded, "no model is loaded");
        assert!(absent.contains("absent.gguf"), "{absent}");
    }

    #[test]
    fn the_best_is_the_first_of_the_greatest() {
        let mut logits = vec![-1.0; 21];
        logits[13] = 2.5;
        logits[20] = 2.5;
        assert_eq!(best(&logits), (13, 2.5));
        logits[20] = 3.0;
        assert_eq!(best(&logits), (20, 3.0));
    }
}
