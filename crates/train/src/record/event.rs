//! What can happen in a run.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use flametune_peft::TrainableReport;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::memory::Memory;
use crate::trainer::{EvalReport, StepReport};

/// An event and when it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Seconds since 1970.
    pub time: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run began.
    Started(Box<RunDescription>),
    /// The run went on after an interruption.
    Resumed(Resumption),
    /// An optimizer step was taken.
    Step(TrainedStep),
    /// The model was evaluated.
    Eval(Evaluation),
    /// The model was asked something.
    Sample(SampleText),
    /// Trained tensors were looked at.
    Zeros(ZeroTensors),
    /// A checkpoint was written.
    Checkpoint(CheckpointWritten),
    /// Something looked wrong.
    Warning(Note),
    /// The run ended.
    Finished(Outcome),
}

impl Event {
    /// The optimizer steps that had been taken.
    pub fn step(&self) -> usize {
        match self {
            Self::Started(_) => 0,
            Self::Resumed(event) => event.step,
            Self::Step(event) => event.report.step,
            Self::Eval(event) => event.step,
            Self::Sample(event) => event.step,
            Self::Zeros(event) => event.step,
            Self::Checkpoint(event) => event.step,
            Self::Warning(event) => event.step,
            Self::Finished(event) => event.step,
        }
    }
}

/// What a run is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunDescription {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: String,
    /// Optimizer steps it will take.
    pub max_steps: usize,
    /// All its settings.
    pub config: Value,
    /// The model.
    pub model: ModelFacts,
    /// What is trained.
    pub adapter: AdapterFacts,
    /// The data.
    pub data: DataFacts,
    /// Where it runs, by name, such as [`environment`] says.
    pub environment: BTreeMap<String, String>,
}

/// The model of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelFacts {
    /// Its name or path.
    pub name: String,
    /// The architecture.
    pub architecture: String,
    /// How its weights are stored, such as `nf4 double-quantized`.
    pub storage: String,
}

/// What a run trains.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterFacts {
    /// The method, such as `lora`.
    pub method: String,
    /// Parameters that are trained.
    pub trainable: usize,
    /// Parameters in all.
    pub total: usize,
    /// Bytes of the trained parameters.
    pub trainable_bytes: usize,
    /// Bytes of the base.
    pub base_bytes: usize,
}

impl AdapterFacts {
    /// The facts of a report; the method is that of the first trained part.
    pub fn of(report: &TrainableReport) -> Self {
        let trained = report.modules.iter().find(|row| row.trainable);
        Self {
            method: trained.map_or("full", |row| row.method).to_owned(),
            trainable: report.trainable,
            total: report.total,
            trainable_bytes: report.trainable_bytes,
            base_bytes: report.base_bytes,
        }
    }
}

/// The data of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DataFacts {
    /// Where it is from.
    pub source: String,
    /// A digest of its content.
    pub digest: String,
    /// Examples to train on.
    pub examples: usize,
}

/// Where a run went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// Optimizer steps that had been taken.
    pub step: usize,
}

/// An optimizer step, and the memory of the process after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainedStep {
    /// The step.
    #[serde(flatten)]
    pub report: StepReport,
    /// The memory, where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

impl TrainedStep {
    /// Tokens per second of wall time, padding included.
    pub fn tokens_per_second(&self) -> f64 {
        if self.report.seconds > 0.0 {
            self.report.tokens as f64 / self.report.seconds
        } else {
            0.0
        }
    }
}

/// A measurement without training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// On what: `eval` for the run's own validation data.
    pub name: String,
    /// Optimizer steps taken before.
    pub step: usize,
    /// The mean loss of the supervised tokens; null in files when it is no number.
    #[serde(with = "number")]
    pub loss: f64,
    /// Tokens that the loss is the mean of.
    pub supervised_tokens: usize,
    /// Wall time.
    pub seconds: f64,
    /// What else was measured, by name, such as `accuracy`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

impl Evaluation {
    /// The name of evaluations on the run's own validation data.
    pub const OWN: &'static str = "eval";

    /// The name of evaluations on data that the run must not make the model worse at.
    pub const GENERAL: &'static str = "general";

    /// An evaluation on the data called `name`.
    pub fn new(name: &str, report: &EvalReport) -> Self {
        Self {
            name: name.to_owned(),
            step: report.step,
            loss: report.loss,
            supervised_tokens: report.supervised_tokens,
            seconds: report.seconds,
            metrics: report.metrics.clone(),
        }
    }
}

/// What the model answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleText {
    /// Optimizer steps taken before; 0 is the untrained model.
    pub step: usize,
    /// What it was asked.
    pub prompt: String,
    /// What it answered.
    pub text: String,
}

/// The trained tensors that hold nothing but zeros.
///
/// The B of LoRA starts as zeros; it stays so only if no gradient ever reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ZeroTensors {
    /// Optimizer steps taken before.
    pub step: usize,
    /// Tensors that are trained.
    pub trained: usize,
    /// Those of them that are zeros.
    pub zero: usize,
    /// The first of them, by their paths.
    pub examples: Vec<String>,
}

impl ZeroTensors {
    /// The most paths that are named.
    const EXAMPLES: usize = 5;

    /// Looks at every parameter of `module` that requires a gradient.
    pub fn of(module: &impl Module, step: usize) -> Self {
        let mut found = Finder {
            path: Vec::new(),
            zeros: Self {
                step,
                ..Self::default()
            },
        };
        module.visit(&mut found);
        found.zeros
    }
}

struct Finder {
    path: Vec<String>,
    zeros: ZeroTensors,
}

impl ModuleVisitor for Finder {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        self.zeros.trained += 1;
        let value = param.val();
        let value = if value.device().is_autodiff() {
            value.inner()
        } else {
            value
        };
        if value.into_data().iter::<f32>().all(|x| x == 0.0) {
            self.zeros.zero += 1;
            if self.zeros.examples.len() < ZeroTensors::EXAMPLES {
                self.zeros.examples.push(self.path.join("."));
            }
        }
    }
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointWritten {
    /// Optimizer steps taken.
    pub step: usize,
    /// Its folder.
    pub path: String,
}

/// A remark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Optimizer steps taken.
    pub step: usize,
    /// What is remarked.
    pub text: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Optimizer steps taken.
    pub step: usize,
    /// How.
    pub status: Status,
    /// Why, if there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a run ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It goes on, or was killed.
    Running,
    /// All steps were taken.
    Finished,
    /// The validation loss no longer fell.
    StoppedEarly,
    /// It was asked to stop.
    Interrupted,
    /// An error ended it.
    Failed,
}

impl Status {
    /// The name, as files have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::StoppedEarly => "stopped_early",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.as_str().replace('_', " "))
    }
}

/// Versions and machine, as far as the program knows them by itself.
pub fn environment() -> BTreeMap<String, String> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    BTreeMap::from([
        fact("version", env!("CARGO_PKG_VERSION").to_owned()),
        fact("os", std::env::consts::OS.to_owned()),
        fact("architecture", std::env::consts::ARCH.to_owned()),
        fact("threads", rayon::current_num_threads().to_string()),
    ])
}

/// Numbers that may be none: JSON has no name for those, so they become null.
mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() {
            serializer.serialize_f64(*value)
        } else {
            serializer.serialize_none()
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}
