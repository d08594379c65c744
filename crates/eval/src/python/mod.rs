//! What the reference harness relies on of Python: its random numbers, literals, text methods and `str()`.
//!
//! Prompts, few-shot examples and standard errors of lm-eval are functions of these, so they are followed to the bit.

mod literal;
mod random;
mod regular;
mod repr;
mod text;

pub use literal::{LiteralError, literal_eval};
pub use random::PythonRandom;
pub use regular::python_regex;
pub use repr::{python_repr, python_str};
pub use text::{is_digit, is_space, split, strip};

pub(crate) use regular::python_replacement;
