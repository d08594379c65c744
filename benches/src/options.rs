//! The command line that the binaries have in common.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use clap::{Parser, ValueEnum};

use crate::contender::Contender;
use crate::protocol::Number;

/// Every number format that is measured.
const NUMBERS: [Number; 2] = [Number::F32, Number::Bf16];

/// The model of the macro benches.
const MODEL: &str = "assets/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Measures generation with SmolLM2-135M, one JSON line a case on standard output.
#[derive(Debug, Parser)]
pub struct Options {
    /// Only cases whose name and number format, as in `decode_b8 f32`, contain this; `=decode_b8`
    /// is that name alone
    #[arg(default_value = "")]
    pub filter: String,
    /// Race transformers, run by this Python interpreter
    #[arg(long, value_name = "PYTHON")]
    pub peer: Option<PathBuf>,
    /// Runs that count for each case and contender
    #[arg(long, default_value_t = 7, value_parser = at_least_one)]
    pub runs: usize,
    /// Threads of each contender [default: all cores]
    #[arg(long, value_parser = at_least_one)]
    threads: Option<usize>,
    /// A GGUF file [default: SmolLM2-135M-Instruct, as `cargo xtask fetch` brings it]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Where single operations compute; `cuda` needs the feature of that name
    #[arg(long, value_enum, default_value_t = Place::Cpu)]
    device: Place,
    /// Be the worker that a referee talks to
    #[arg(long, hide = true)]
    pub worker: bool,
}

/// A device of the benches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

impl Options {
    /// Threads of each contender.
    pub fn threads(&self) -> usize {
        self.threads
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
    }

    /// The device of single operations.
    pub fn device(&self) -> Device {
        match self.device {
            Place::Cpu => Device::flex(),
            #[cfg(feature = "cuda")]
            Place::Cuda => Device::cuda(0),
        }
    }

    /// Its name.
    pub fn device_name(&self) -> &'static str {
        match self.device {
            Place::Cpu => "cpu",
            #[cfg(feature = "cuda")]
            Place::Cuda => "cuda",
        }
    }

    /// The model file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn model(&self) -> Result<PathBuf> {
        let model = match &self.model {
            Some(model) => model.clone(),
            None => cache()?.join(MODEL),
        };
        ensure!(
            model.is_file(),
            "{} is missing; `cargo xtask fetch` brings it",
            model.display()
        );
        Ok(model)
    }

    /// The folder of what `cargo xtask fetch` brings.
    ///
    /// # Errors
    /// When the environment names no place for it.
    pub fn assets(&self) -> Result<PathBuf> {
        Ok(cache()?.join("assets"))
    }

    /// A folder for large files that a bench writes.
    ///
    /// # Errors
    /// When the environment names no place for it.
    pub fn scratch(&self) -> Result<PathBuf> {
        Ok(cache()?.join("benches"))
    }

    /// The peer's llama.cpp, where there is one and it starts; a build of it from source may have
    /// failed where everything else of the peers was installed.
    #[allow(clippy::print_stderr, reason = "progress goes to standard error")]
    pub fn llama_cpp(&self) -> Option<Contender> {
        match Contender::llama_cpp(self.peer.as_deref()?, self.threads()) {
            Ok(contender) => Some(contender),
            Err(error) => {
                eprintln!("no peer: llama.cpp does not start: {error:#}");
                None
            }
        }
    }

    /// The number formats of a case that the filter lets through.
    pub fn selected(&self, case: &str) -> Vec<Number> {
        NUMBERS
            .into_iter()
            .filter(|dtype| self.wants(case, dtype))
            .collect()
    }

    /// Whether the filter lets a case through in this number format.
    pub fn wants(&self, case: &str, dtype: impl fmt::Display) -> bool {
        match self.filter.strip_prefix('=') {
            Some(name) => name == case,
            None => format!("{case} {dtype}").contains(&self.filter),
        }
    }

    /// A file that `cargo xtask fetch` brings.
    ///
    /// # Errors
    /// When it is not there.
    pub fn asset(&self, path: &str) -> Result<PathBuf> {
        let file = cache()?.join("assets").join(path);
        ensure!(
            file.is_file(),
            "{} is missing; `cargo xtask fetch` brings it",
            file.display()
        );
        Ok(file)
    }
}

/// The folder for what may be thrown away: `$FLAMETUNE_CACHE`, else `$HOME/.cache/flametune`.
fn cache() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    set("FLAMETUNE_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/flametune")))
        .context("neither FLAMETUNE_CACHE nor HOME is set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_may_name_the_case_the_format_or_both() {
        let selected = |filter: &str, case| {
            let options = Options::try_parse_from(["bench", filter]).unwrap();
            options.selected(case)
        };
        assert_eq!(selected("", "decode_b8"), NUMBERS);
        assert_eq!(selected("decode", "decode_b8"), NUMBERS);
        assert_eq!(selected("b8 f32", "decode_b8"), [Number::F32]);
        assert_eq!(selected("prefill", "decode_b8"), []);
        assert_eq!(selected("=qlora_step", "burn_qlora_step"), []);
        assert_eq!(selected("=qlora_step", "qlora_step"), NUMBERS);
        assert!(Options::try_parse_from(["bench", "--runs", "0"]).is_err());
    }
}
