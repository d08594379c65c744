//! Compiling and rendering a chat template.

use std::fmt;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, Value};

use super::budget;
use super::environment::{environment, strftime_now, typed_error};
use super::input::{ChatInput, message_values};
use super::lexer::{MARK_VARIABLE, rewrite_generation_tags};
use super::limits;
use crate::error::{Error, Result};
use crate::tokenizer::folder;

/// Largest template that is compiled; published ones stay below 30 KB.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Name of the template inside of its environment.
const NAME: &str = "chat_template";

/// A compiled chat template.
///
/// Renders what `apply_chat_template` of the transformers library renders: `trim_blocks` and `lstrip_blocks` are on,
/// `tojson` is Python's `json.dumps`, `raise_exception`, `{% break %}` and Python's string methods exist.
/// Templates are untrusted programs: they see the input alone, and every rendering has a budget of steps.
#[derive(Clone)]
pub struct ChatTemplate {
    name: String,
    source: String,
    generation_tags: usize,
    fuel: Option<u64>,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template; `name` stands for it in error messages.
    ///
    /// # Errors
    /// [`Error::TemplateTooLarge`] or [`Error::TemplateSyntax`].
    pub fn new(name: impl Into<String>, source: impl Into<String>) -> Result<Self> {
        let (name, source) = (name.into(), source.into());
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(Error::TemplateTooLarge {
                template: name,
                bytes: source.len(),
                limit: MAX_TEMPLATE_BYTES,
            });
        }
        // Jinja reads every kind of line end as a line feed.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        if let Some((line, reason)) = limits::exceeded(&source) {
            return Err(Error::TemplateSyntax {
                template: name,
                line,
                reason,
            });
        }
        let rewritten = rewrite_generation_tags(&source);
        let environment = budget::with_stack(&name, 0, || {
            let fail = |error: &minijinja::Error| typed_error(&name, 0, error);
            let mut environment = environment().map_err(|error| fail(&error))?;
            environment
                .add_template_owned(NAME, rewritten.source)
                .map_err(|error| fail(&error))?;
            Ok(environment)
        })?;
        Ok(Self {
            name,
            source,
            generation_tags: rewritten.generation_tags,
            fuel: None,
            environment,
        })
    }

    /// The default template of a model folder: `chat_template.jinja`, else `chat_template.json`, else the
    /// `chat_template` of `tokenizer_config.json`. `None` when the folder has no template.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InvalidJson`] or [`Error::InvalidField`] when a file is unreadable, and the errors of
    /// [`Self::new`].
    pub fn from_folder(folder: &Path) -> Result<Option<Self>> {
        folder::chat_template(folder)?
            .map(|(file, source)| Self::new(file, source))
            .transpose()
    }

    /// Sets the number of steps that a rendering may take, in place of a budget in proportion to the conversation.
    ///
    /// A kilobyte of stack is set aside (not used) for each step.
    #[must_use]
    pub fn with_fuel(mut self, fuel: u64) -> Self {
        self.fuel = Some(fuel);
        self
    }

    /// The name that stands for the template in error messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The template as it was given, with line feeds as line ends.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template marks the assistant's text with `{% generation %}`.
    pub fn has_generation_tags(&self) -> bool {
        self.generation_tags > 0
    }

    /// Renders a conversation.
    ///
    /// Encode the text with `add_special_tokens = false`: the template already wrote BOS where it belongs.
    ///
    /// # Errors
    /// [`Error::TemplateRaised`], [`Error::TemplateRender`] or [`Error::TemplateFuel`] when the template refuses the
    /// conversation or fails, [`Error::ConflictingOptions`] and [`Error::ContinueFinalMessage`] for an impossible input.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String> {
        if input.continue_final_message {
            super::continuation::render(self, input)
        } else {
            self.render_marked(input, None)
        }
    }

    /// Renders with marks around the assistant's text, or without.
    pub(super) fn render_marked(
        &self,
        input: &ChatInput<'_>,
        mark: Option<&str>,
    ) -> Result<String> {
        let messages = message_values(input.messages).map_err(|error| Error::InvalidMessage {
            index: 0,
            reason: error.to_string(),
        })?;
        self.render_values(input, &messages, mark)
    }

    /// Renders messages that are JSON already; those of `input` are not looked at.
    pub(super) fn render_values(
        &self,
        input: &ChatInput<'_>,
        messages: &[serde_json::Value],
        mark: Option<&str>,
    ) -> Result<String> {
        let others = [input.tools, input.documents]
            .into_iter()
            .flatten()
            .flatten();
        let fuel = self.fuel.unwrap_or_else(|| {
            budget::fuel(
                messages
                    .iter()
                    .chain(others)
                    .chain(input.variables.values()),
            )
        });
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        budget::with_stack(&self.name, fuel, || {
            environment
                .get_template(NAME)
                .and_then(|template| template.render(context(input, messages, mark)))
                .map_err(|error| typed_error(&self.name, fuel, &error))
        })
    }
}

/// The variables that a template sees.
fn context(input: &ChatInput<'_>, messages: &[serde_json::Value], mark: Option<&str>) -> Value {
    let mut context: Vec<(&str, Value)> = input
        .variables
        .iter()
        .map(|(name, value)| (name.as_str(), to_value(value)))
        .collect();
    context.push(("messages", to_value(messages)));
    context.push(("tools", to_value(input.tools)));
    context.push(("documents", to_value(input.documents)));
    context.push((
        "add_generation_prompt",
        Value::from(input.add_generation_prompt),
    ));
    context.extend(input.now.map(|now| ("strftime_now", strftime_now(now))));
    context.extend(mark.map(|mark| (MARK_VARIABLE, Value::from(mark))));
    Value::from_pairs(context)
}

fn to_value(value: impl serde::Serialize) -> Value {
    Value::from(Serde(value))
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("name", &self.name)
            .field("bytes", &self.source.len())
            .field("generation_tags", &self.generation_tags)
            .field("fuel", &self.fuel)
            .finish_non_exhaustive()
    }
}
