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
    /// Write a new LoRA adapter for a model into a folder of PEFT's files; the peer is never asked.
    Adapter {
        /// The model.
        model: PathBuf,
        /// The folder.
        folder: PathBuf,
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
    /// How many threads to use from here on.
    pub threads: usize,
}

/// A way to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// LoRA of rank 16 on all linear layers of a dense base.
    Lora,
    /// The same on an NF4 base, blocks of 64 without double quantization.
    Qlora,
    /// Every parameter.
    Full,
    /// Burn's own `apply_qlora` with 4-bit blocks of 32; only ours.
    BurnQlora,
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
    /// To [`Request::Load`] and [`Request::Train`].
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
    /// To anything that did not work.
    Failed(String),
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
