//! A process that takes part in a race: our own worker, or a peer's script.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::protocol::{Finished, Job, Number, Reply, Request};

/// The flag under which every binary of this package is the worker instead of the referee.
pub(crate) const WORKER_FLAG: &str = "--worker";

/// Generation by Hugging Face transformers on torch.
const TRANSFORMERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/transformers_infer.py");

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
    pub fn ours(threads: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(WORKER_FLAG);
        Self::start(command, threads)
    }

    /// Starts the transformers script with a Python interpreter that has its requirements.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn transformers(python: &Path, threads: usize) -> Result<Self> {
        let mut command = Command::new(python);
        command.arg(TRANSFORMERS);
        // Nothing is looked up elsewhere, and nothing but the product computes.
        command.env("HF_HUB_OFFLINE", "1");
        command.env("TOKENIZERS_PARALLELISM", "false");
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
        let request = Request::Load {
            model: model.to_owned(),
            dtype,
            threads,
        };
        match self.ask(&request)? {
            Reply::Loaded => Ok(()),
            other => bail!("loading {}: {other:?}", model.display()),
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

    /// The most memory that the process ever had in RAM, mapped files included.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn peak_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        peak_bytes(&text).with_context(|| format!("{path} has no VmHWM"))
    }
}

fn peak_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

impl Drop for Contender {
    fn drop(&mut self) {
        drop(self.requests.take());
        // It ends by itself when it has read everything; there is nobody to tell if not.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\ta\nVmPeak:\t  9000 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 1000 kB\n";
        assert_eq!(peak_bytes(status), Some(1_263_616));
        assert_eq!(peak_bytes("Name:\ta\n"), None);
    }
}
