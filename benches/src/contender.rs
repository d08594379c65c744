//! A process that takes part in a race: our own worker, or a peer's script.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::machine::{peak_bytes, resident_bytes};
use crate::protocol::{
    AdapterKind, Evaluated, Evaluation, Finished, Job, NewAdapter, Number, Operated, Operation,
    Packed, Quantization, Reply, Request, Rows, Stepped, Timed, Tokenized, Training,
};

/// The flag under which every binary of this package is the worker instead of the referee.
pub(crate) const WORKER_FLAG: &str = "--worker";

/// Generation by Hugging Face transformers on torch.
const TRANSFORMERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/transformers_infer.py");

/// Generation by llama.cpp through llama-cpp-python.
const LLAMA_CPP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/llama_cpp_infer.py");

/// Tokenizing by tokenizers and packing by trl.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/data.py");

/// Training by transformers, peft and bitsandbytes on torch.
const PEFT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/transformers_train.py");

/// Evaluation by lm-evaluation-harness with transformers.
const LM_EVAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/lm_eval_tasks.py");

/// DPO by TRL.
const TRL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/trl_dpo.py");

/// Single operations of torch and bitsandbytes.
const TORCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/torch_ops.py");

/// A running process that answers requests; it ends when this is dropped.
#[derive(Debug)]
pub struct Contender {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    software: String,
}

impl Contender {
    /// Starts our worker: this very program again, with another flag.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn ours(threads: usize, device: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([WORKER_FLAG, "--device", device]);
        Self::start(command, threads)
    }

    /// Starts the transformers script with a Python interpreter that has its requirements.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn transformers(python: &Path, threads: usize) -> Result<Self> {
        Self::script(python, TRANSFORMERS, threads)
    }

    /// Starts the script that trains with transformers, peft and bitsandbytes.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn peft(python: &Path, threads: usize) -> Result<Self> {
        Self::script(python, PEFT, threads)
    }

    /// Starts the script that trains with TRL.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn trl(python: &Path, threads: usize) -> Result<Self> {
        Self::script(python, TRL, threads)
    }

    /// Starts the script that runs llama.cpp.
    ///
    /// # Errors
    /// When the process cannot be started, or has no llama-cpp-python.
    pub fn llama_cpp(python: &Path, threads: usize) -> Result<Self> {
        Self::script(python, LLAMA_CPP, threads)
    }

    /// Starts the script that tokenizes and packs.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn data(python: &Path, threads: usize) -> Result<Self> {
        Self::script(python, DATA, threads)
    }

    /// Starts the script that evaluates with lm-evaluation-harness.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn lm_eval(python: &Path, threads: usize) -> Result<Self> {
        Self::script(python, LM_EVAL, threads)
    }

    fn script(python: &Path, script: &str, threads: usize) -> Result<Self> {
        let mut command = Command::new(python);
        command.arg(script);
        // Nothing is looked up elsewhere, and nothing but the product computes.
        command.env("HF_HUB_OFFLINE", "1");
        command.env("TOKENIZERS_PARALLELISM", "false");
        Self::start(command, threads)
    }

    /// Starts the script that runs single operations in torch and bitsandbytes.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn torch(python: &Path, threads: usize, device: &str) -> Result<Self> {
        let mut command = Command::new(python);
        command.args([TORCH, device]);
        Self::start(command, threads)
    }

    fn start(mut command: Command, threads: usize) -> Result<Self> {
        let threads = threads.to_string();
        let mut child = command
            .env("RAYON_NUM_THREADS", &threads)
            .env("OMP_NUM_THREADS", &threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let requests = child.stdin.take();
        let replies = child.stdout.take().context("no standard output")?;
        let mut contender = Self {
            child,
            requests,
            replies: BufReader::new(replies),
            software: String::new(),
        };
        match contender.ask(&Request::Hello)? {
            Reply::Hello(software) => contender.software = software,
            other => bail!("greeting: {other:?}"),
        }
        Ok(contender)
    }

    /// Names and versions of what computes here.
    pub fn software(&self) -> &str {
        &self.software
    }

    /// Asks for a model to be loaded.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn load(&mut self, model: &Path, dtype: Number, threads: usize) -> Result<()> {
        self.load_as(model, dtype, None, threads)
    }

    /// Asks for a model to be loaded, with its linear layers quantized where that is wanted.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn load_as(
        &mut self,
        model: &Path,
        dtype: Number,
        quantize: Option<Quantization>,
        threads: usize,
    ) -> Result<()> {
        let request = Request::Load {
            model: model.to_owned(),
            dtype,
            quantize,
            threads,
        };
        match self.ask(&request)? {
            Reply::Loaded => Ok(()),
            other => bail!("loading {}: {other:?}", model.display()),
        }
    }

    /// Asks for a model to be made ready for training.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn train(&mut self, training: &Training) -> Result<()> {
        match self.ask(&Request::Train(training.clone()))? {
            Reply::Loaded => Ok(()),
            other => bail!("preparing {:?} to train: {other:?}", training.method),
        }
    }

    /// Asks for an optimizer step.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn step(&mut self, rows: &Rows) -> Result<Stepped> {
        match self.ask(&Request::Step(rows.clone()))? {
            Reply::Stepped(stepped) => Ok(stepped),
            other => bail!("taking a step: {other:?}"),
        }
    }

    /// Asks for a new LoRA adapter of rank 16 on all linear layers to be written.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn adapter(&mut self, model: &Path, folder: &Path) -> Result<()> {
        let adapter = NewAdapter {
            kind: AdapterKind::Lora,
            rank: 16,
            seed: 7,
        };
        self.new_adapter(model, folder, adapter)
    }

    /// Asks for a new adapter to be written.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn new_adapter(&mut self, model: &Path, folder: &Path, adapter: NewAdapter) -> Result<()> {
        let request = Request::Adapter {
            model: model.to_owned(),
            folder: folder.to_owned(),
            adapter,
        };
        match self.ask(&request)? {
            Reply::Saved => Ok(()),
            other => bail!("making an adapter: {other:?}"),
        }
    }

    /// Asks for adapters to be put on the loaded model.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn adapters(&mut self, folders: &[PathBuf]) -> Result<()> {
        let folders = folders.to_owned();
        match self.ask(&Request::Adapters { folders })? {
            Reply::Loaded => Ok(()),
            other => bail!("loading adapters: {other:?}"),
        }
    }

    /// Asks for something that is timed there.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn timed(&mut self, request: &Request) -> Result<Timed> {
        match self.ask(request)? {
            Reply::Timed(timed) => Ok(timed),
            other => bail!("{request:?}: {other:?}"),
        }
    }

    /// Asks how likely the loaded model finds rows.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn score(&mut self, rows: &Rows) -> Result<Vec<f64>> {
        match self.ask(&Request::Score(rows.clone()))? {
            Reply::Scored(scores) => Ok(scores),
            other => bail!("scoring: {other:?}"),
        }
    }

    /// Asks for the token ids of texts.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn tokenize(&mut self, model: &Path, texts: &[String]) -> Result<Tokenized> {
        let (model, texts) = (model.to_owned(), texts.to_owned());
        match self.ask(&Request::Tokenize { model, texts })? {
            Reply::Tokenized(tokenized) => Ok(tokenized),
            other => bail!("tokenizing: {other:?}"),
        }
    }

    /// Asks for examples to be packed.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn pack(&mut self, lengths: &[usize], row: usize) -> Result<Packed> {
        let lengths = lengths.to_owned();
        match self.ask(&Request::Pack { lengths, row })? {
            Reply::Packed(packed) => Ok(packed),
            other => bail!("packing: {other:?}"),
        }
    }

    /// Asks for a job to be done.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn generate(&mut self, job: &Job) -> Result<Finished> {
        match self.ask(&Request::Generate(job.clone()))? {
            Reply::Finished(finished) => Ok(finished),
            other => bail!("generating: {other:?}"),
        }
    }

    /// Asks for a task to be answered.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn evaluate(&mut self, evaluation: &Evaluation) -> Result<Evaluated> {
        match self.ask(&Request::Evaluate(evaluation.clone()))? {
            Reply::Evaluated(evaluated) => Ok(evaluated),
            other => bail!("evaluating {}: {other:?}", evaluation.task),
        }
    }

    /// Asks for an operation to be measured.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn operate(&mut self, operation: Operation) -> Result<Operated> {
        match self.ask(&Request::Operate(operation))? {
            Reply::Operated(operated) => Ok(operated),
            other => bail!("{operation:?}: {other:?}"),
        }
    }

    /// Asks for the loaded model to be written into a Hugging Face folder.
    ///
    /// # Errors
    /// When it does not work there.
    pub fn save(&mut self, folder: &Path) -> Result<()> {
        let folder = folder.to_owned();
        match self.ask(&Request::Save { folder })? {
            Reply::Saved => Ok(()),
            other => bail!("saving: {other:?}"),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply> {
        let requests = self.requests.as_mut().context("the process has ended")?;
        writeln!(requests, "{}", serde_json::to_string(request)?)?;
        requests.flush()?;
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            bail!(
                "the process ended without an answer: {}",
                self.child.wait()?
            );
        }
        serde_json::from_str(&line).with_context(|| format!("reading the answer {line}"))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory that the process has in RAM, mapped files included.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn resident_bytes(&self) -> Result<u64> {
        resident_bytes(self.pid()).with_context(|| format!("the memory of process {}", self.pid()))
    }

    /// The most memory that the process ever had in RAM, mapped files included.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn peak_bytes(&self) -> Result<u64> {
        peak_bytes(self.pid()).with_context(|| format!("the peak of process {}", self.pid()))
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        drop(self.requests.take());
        // It ends by itself when it has read everything; there is nobody to tell if not.
        let _ = self.child.wait();
    }
}
