//! Tasks as lm-evaluation-harness writes them in YAML, with its prompts, filters, scores and standard errors.

mod builtin;
mod config;
mod document;
mod fields;
mod filters;
mod functions;
mod generation;
mod library;
mod measures;
mod prompt;
mod results;
mod run;
mod scoring;
mod task;
mod template;
mod yaml;

pub use config::{OutputType, TaskConfig};
pub use document::{DataFolders, Document};
pub use generation::GenerationOptions;
pub use library::{GroupConfig, Selection, TaskLibrary};
pub use measures::Item;
pub use prompt::PromptOptions;
pub use results::{Evaluation, GroupResult, MetricResult, Sample, TaskResult};
pub use run::{EvalOptions, Progress, evaluate};
pub use task::Task;
