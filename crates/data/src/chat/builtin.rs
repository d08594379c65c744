//! The chat templates that ship with the crate.

use super::template::ChatTemplate;
use crate::error::{Error, Result};
use crate::names::edits;

/// Prefixes a template with the macro that reads a message's text, so that each is complete in itself.
macro_rules! with_text_macro {
    ($file:literal) => {
        concat!(
            include_str!("builtin/text.jinja"),
            include_str!(concat!("builtin/", $file))
        )
    };
}

/// Names of the built-in templates.
pub const BUILTIN_TEMPLATES: &[&str] = &[
    "alpaca", "chatml", "gemma", "llama-2", "llama-3", "mistral", "zephyr",
];

/// Names this many edits away are offered when a name is unknown.
const NEAR: usize = 3;

impl ChatTemplate {
    /// A built-in template by name; case, `-` and `_` make no difference.
    ///
    /// - `alpaca`: instruction and response under headings. A user message with an `input` key takes the form with an
    ///   input section; a system message replaces the preamble.
    /// - `chatml`: `<|im_start|>role … <|im_end|>`, as Qwen and SmolLM2 use it.
    /// - `gemma`: `<start_of_turn>` turns; a system message opens the first user turn.
    /// - `llama-2`: `[INST] … [/INST]` with a `<<SYS>>` block, each user turn opened by BOS.
    /// - `llama-3`: `<|start_header_id|>` headers and `<|eot_id|>`.
    /// - `mistral`: `[INST] … [/INST]` with one BOS; a system message opens the first user turn.
    /// - `zephyr`: `<|role|>` lines ended by EOS.
    ///
    /// All mark the assistant's text with `{% generation %}` and read `bos_token` and `eos_token` where the published
    /// form has them.
    ///
    /// # Errors
    /// [`Error::UnknownTemplate`] with the names that are spelled alike.
    ///
    /// # Source
    /// - Taori et al. 2023, Stanford Alpaca, prompts of `train.py`, with a line break after `### Response:`
    /// - OpenAI 2023, ChatML; model cards of Llama-2-chat, Llama-3-Instruct, Mistral-7B-Instruct, Gemma-3 and Zephyr
    pub fn builtin(name: &str) -> Result<Self> {
        let wanted = normalized(name);
        let known = BUILTIN_TEMPLATES
            .iter()
            .find(|known| normalized(known) == wanted);
        let unknown = || {
            let near = BUILTIN_TEMPLATES
                .iter()
                .copied()
                .filter(|known| {
                    edits(&wanted, &normalized(known)) <= NEAR.min(wanted.len().saturating_sub(1))
                })
                .collect();
            Error::UnknownTemplate {
                name: name.to_owned(),
                near,
                known: BUILTIN_TEMPLATES,
            }
        };
        let source = match known.copied() {
            Some("alpaca") => with_text_macro!("alpaca.jinja"),
            Some("chatml") => with_text_macro!("chatml.jinja"),
            Some("gemma") => with_text_macro!("gemma.jinja"),
            Some("llama-2") => with_text_macro!("llama-2.jinja"),
            Some("llama-3") => with_text_macro!("llama-3.jinja"),
            Some("mistral") => with_text_macro!("mistral.jinja"),
            Some("zephyr") => with_text_macro!("zephyr.jinja"),
            _ => return Err(unknown()),
        };
        Self::new(known.copied().unwrap_or(name), source)
    }
}

fn normalized(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '-' | '_' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_in_any_spelling() {
        for name in BUILTIN_TEMPLATES {
            let template = ChatTemplate::builtin(name).unwrap();
            assert_eq!(template.name(), *name);
            assert!(template.has_generation_tags(), "{name}");
        }
        assert_eq!(ChatTemplate::builtin("Llama_3").unwrap().name(), "llama-3");
    }

    #[test]
    fn unknown_names_come_with_near_ones() {
        let message = |name: &str| ChatTemplate::builtin(name).unwrap_err().to_string();
        let known = "(known: alpaca, chatml, gemma, llama-2, llama-3, mistral, zephyr)";
        assert_eq!(
            message("llama4"),
            format!(
                "no built-in chat template is called \"llama4\"; did you mean llama-2 or llama-3? {known}"
            )
        );
        assert_eq!(
            message("xyz"),
            format!("no built-in chat template is called \"xyz\" {known}")
        );
        assert_eq!(
            message(""),
            format!("no built-in chat template is called \"\" {known}")
        );
    }

    #[test]
    fn edit_distance_is_exact() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("ab", "", 2),
        ] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
        }
    }
}
