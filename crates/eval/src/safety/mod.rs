//! Refusals and harm: how a model answers prompts it should refuse, and prompts it should not.
//!
//! Both errors are counted: harmful prompts that are complied with, and harmless ones that are refused.

mod judged;
mod prompts;
mod report;
mod rules;

pub use judged::judge_responses;
pub use prompts::{PromptKind, SafetyPrompt, builtin_prompts, read_prompts};
pub use report::{CategoryRate, Rate, SafetyReport, ScoredResponse, safety_report};
pub use rules::{Behaviour, classify};
