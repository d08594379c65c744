//! What the referee says to a contender and hears from it: one JSON value a line.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The number format of weights and products.
///
/// We keep activations in f32 either way and round them as they enter a product; the peer computes
/// in the weights' own format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Number {
    /// 32-bit floating point.
    F32,
    /// The upper half of an f32.
    Bf16,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// How linear layers are stored where they are quantized; embeddings and heads stay dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// NF4 in blocks of 64.
    Nf4,
    /// The same with the scales in 8 bits.
    Nf4Double,
    /// Signed bytes in blocks of 64; only ours.
    Int8,
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nf4 => "nf4",
            Self::Nf4Double => "nf4+dq",
            Self::Int8 => "int8",
        })
    }
}

/// What a contender is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Say what software will compute, once all of it is in memory.
    Hello,
    /// Load a model: a `.gguf` file or a Hugging Face folder.
    Load {
        /// Where it is.
        model: PathBuf,
        /// The number format of its weights in memory.
        dtype: Number,
        /// What its linear layers are stored as instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quantize: Option<Quantization>,
        /// How many threads to use from here on.
        threads: usize,
    },
    /// Run the loaded model.
    Generate(Job),
    /// Do one operation again and again.
    Operate(Operation),
    /// Load a model and make it ready for training.
    Train(Training),
    /// Take one optimizer step on these rows of token ids, all of which but the first are targets.
    Step(Rows),
    /// Answer an evaluation task with the loaded model.
    Evaluate(Evaluation),
    /// Write a new adapter for a model into a folder of PEFT's files; the peer is never asked.
    Adapter {
        /// The model.
        model: PathBuf,
        /// The folder.
        folder: PathBuf,
        /// What it is.
        adapter: NewAdapter,
    },
    /// Put these adapters on the loaded model, in place of those that it has.
    Adapters {
        /// Folders of PEFT's files.
        folders: Vec<PathBuf>,
    },
    /// Take a token in again and again, each time with the next of the adapters.
    Switch {
        /// The token.
        token: u32,
        /// How many times.
        passes: usize,
    },
    /// Take rows in at once, each with the next of the adapters; the peer is never asked.
    Mixed(Rows),
    /// Write the first of the adapters into a folder of PEFT's files.
    SaveAdapter {
        /// The folder.
        folder: PathBuf,
    },
    /// Put one more adapter on the loaded model, and take it off again.
    LoadAdapter {
        /// A folder of PEFT's files.
        folder: PathBuf,
    },
    /// Tell how likely the loaded model finds these rows.
    Score(Rows),
    /// Turn texts into token ids, one after the other.
    Tokenize {
        /// The `.gguf` file with the vocabulary.
        model: PathBuf,
        /// The texts.
        texts: Vec<String>,
    },
    /// Put examples of these lengths into rows by best fit.
    Pack {
        /// Tokens of each example.
        lengths: Vec<usize>,
        /// Tokens of a row.
        row: usize,
    },
    /// Write the loaded model into a Hugging Face folder; the peer is never asked.
    Save {
        /// The folder.
        folder: PathBuf,
    },
}

/// What is trained, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Training {
    /// A `.gguf` file or a Hugging Face folder.
    pub model: PathBuf,
    /// In which products multiply: frozen weights are stored so.
    pub dtype: Number,
    /// What changes.
    pub method: Method,
    /// The adapter at its start, for methods that have one: a folder of PEFT's files.
    pub adapter: Option<PathBuf>,
    /// Whether activations of layers are computed again in the backward pass.
    pub recompute: bool,
    /// The layers that there are, from the first; only ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// How many threads to use from here on.
    pub threads: usize,
}

/// A way to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// LoRA of rank 16 on all linear layers of a dense base.
    Lora,
    /// The same with trained magnitudes.
    Dora,
    /// [`Self::Lora`] on an NF4 base, blocks of 64 without double quantization.
    Qlora,
    /// The first norm alone, so that gradients go through the whole frozen base; only ours.
    FrozenBase,
    /// [`Self::Lora`] by DPO: rows are chosen answers, then the rejected ones, and the first half of
    /// each is its prompt.
    Dpo,
    /// Every parameter.
    Full,
    /// Burn's own `apply_qlora` with 4-bit blocks of 32; only ours.
    BurnQlora,
}

/// An adapter to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAdapter {
    /// Of which method.
    pub kind: AdapterKind,
    /// The rank, for methods that have one.
    pub rank: usize,
    /// The seed of its numbers.
    pub seed: u64,
}

/// A method of adaptation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    /// LoRA on all linear layers.
    Lora,
    /// LoRA that changes the output from the start.
    RandomLora,
    /// LoRA with trained magnitudes.
    Dora,
    /// The weight of the first norm alone.
    FirstNorm,
}

/// Rows of token ids, `[batch, seq]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// The ids.
    pub rows: Vec<Vec<u32>>,
}

/// An optimizer step that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stepped {
    /// Seconds from rows to new parameters.
    pub seconds: f64,
    /// The mean loss before the update.
    pub loss: f64,
}

/// One operation on numbers that both sides make by the same formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Which.
    pub kind: OperationKind,
    /// Rows of activations.
    pub m: usize,
    /// Width of the activations.
    pub k: usize,
    /// Outputs of a product, or the vocabulary.
    pub n: usize,
    /// In which the product multiplies.
    pub dtype: Number,
}

/// Operations that are measured by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// `x·Wᵀ` with a dense weight.
    Dense,
    /// [`Self::Dense`], then `dy·W`.
    DenseGradient,
    /// `x·Wᵀ` with an NF4 weight.
    Nf4,
    /// [`Self::Nf4`], then `dy·W`.
    Nf4Gradient,
    /// `x·Wᵀ` with bitsandbytes' weights packed for inference; only the peer.
    Nf4Packed,
    /// `x·Wᵀ` with Burn's 4-bit block quantization; only ours.
    BurnQuantized,
    /// Weight to NF4 codes.
    Quantize,
    /// NF4 codes to the weight.
    Dequantize,
    /// Loss of `h·Wᵀ` against labels, with the gradient of `h`.
    CrossEntropy,
    /// The same through all logits; only ours.
    UnfusedCrossEntropy,
    /// Root-mean-square normalization, forward and backward.
    RmsNorm,
    /// `silu(gate)·up`, forward and backward.
    Swiglu,
    /// Causal attention of `n` heads of 64, forward and backward.
    Attention,
}

impl OperationKind {
    /// The name in the protocol.
    pub fn name(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// How long an operation took, and some of what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operated {
    /// Seconds of one, the median of several.
    pub seconds: f64,
    /// Numbers of the result, evenly spread.
    pub sample: Vec<f32>,
    /// Most memory the process ever had, in bytes.
    pub peak_bytes: u64,
}

/// Prompts to take in, and how far to continue them greedily.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Token ids, `[batch, seq]`.
    pub prompts: Vec<Vec<u32>>,
    /// Steps after the one that takes the prompts in; each yields one token a row.
    pub decode_steps: usize,
}

/// A task in the form of lm-evaluation-harness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The folder of its file.
    pub folder: PathBuf,
    /// Its name.
    pub task: String,
    /// How many texts are read at a time.
    pub batch_size: usize,
}

/// A task that was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Seconds of the model.
    pub seconds: f64,
    /// Its answers, in the order of documents and choices.
    pub answers: Vec<Answer>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// A log-likelihood.
    Number(f64),
    /// A text.
    Text(String),
}

/// What a contender answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Hello`]: names and versions.
    Hello(String),
    /// To [`Request::Load`], [`Request::Train`] and [`Request::Adapters`].
    Loaded,
    /// To [`Request::Step`].
    Stepped(Stepped),
    /// To [`Request::Operate`].
    Operated(Operated),
    /// To [`Request::Generate`].
    Finished(Finished),
    /// To [`Request::Evaluate`].
    Evaluated(Evaluated),
    /// To [`Request::Save`] and [`Request::Adapter`].
    Saved,
    /// To [`Request::Switch`], [`Request::Mixed`], [`Request::SaveAdapter`] and
    /// [`Request::LoadAdapter`].
    Timed(Timed),
    /// To [`Request::Score`]: for each row, minus the logarithm of the likelihood of all tokens but
    /// the first.
    Scored(Vec<f64>),
    /// To [`Request::Tokenize`].
    Tokenized(Tokenized),
    /// To [`Request::Pack`].
    Packed(Packed),
    /// To anything that did not work.
    Failed(String),
}

/// How long something took, and some of what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// Seconds of all of it.
    pub seconds: f64,
    /// The greatest logit after each pass, or of each row.
    pub sample: Vec<f32>,
}

/// What tokenizing took and made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tokenized {
    /// Seconds of all texts.
    pub seconds: f64,
    /// The ids of all texts, end to end.
    pub ids: Vec<u32>,
}

/// What packing took and made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// Seconds.
    pub seconds: f64,
    /// Rows that came out.
    pub rows: usize,
    /// Tokens in them.
    pub tokens: usize,
}

/// A job's times and what came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Seconds until the first token of every row was known.
    pub prefill_s: f64,
    /// Seconds of all further steps.
    pub decode_s: f64,
    /// The greedy tokens, `[batch, 1 + decode_steps]`.
    pub tokens: Vec<Vec<u32>>,
    /// The logit of each row's first token.
    pub first_logits: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_as_the_peers_scripts_read_and_write_them() {
        assert_eq!(
            serde_json::to_string(&Request::Hello).unwrap(),
            r#""hello""#
        );
        let load = Request::Load {
            model: "m.gguf".into(),
            dtype: Number::Bf16,
            quantize: None,
            threads: 2,
        };
        assert_eq!(
            serde_json::to_string(&load).unwrap(),
            r#"{"load":{"model":"m.gguf","dtype":"bf16","threads":2}}"#
        );
        let job = Request::Generate(Job {
            prompts: vec![vec![1, 2]],
            decode_steps: 3,
        });
        assert_eq!(
            serde_json::to_string(&job).unwrap(),
            r#"{"generate":{"prompts":[[1,2]],"decode_steps":3}}"#
        );
        let reply =
            r#"{"finished":{"prefill_s":0.5,"decode_s":1,"tokens":[[7]],"first_logits":[2]}}"#;
        let finished = Finished {
            prefill_s: 0.5,
            decode_s: 1.0,
            tokens: vec![vec![7]],
            first_logits: vec![2.0],
        };
        assert_eq!(
            serde_json::from_str::<Reply>(reply).unwrap(),
            Reply::Finished(finished)
        );
    }
}
