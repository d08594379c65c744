//! The text before an answer: description, examples, and the document itself.

use serde_json::Value;

use super::config::Sampler;
use super::document::Document;
use super::task::Task;
use crate::error::{Error, Result};
use crate::model::{ChatTurn, LanguageModel};
use crate::python::{PythonRandom, is_space, python_repr};

/// How prompts are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromptOptions {
    /// Few-shot examples, in place of each task's own number.
    pub num_fewshot: Option<usize>,
    /// Put before the description.
    pub system_instruction: Option<String>,
    /// Writes prompts through the model's chat template.
    pub apply_chat_template: bool,
    /// Makes each example a turn of its own.
    pub fewshot_as_multiturn: bool,
}

/// One part of a prompt.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    role: &'static str,
    content: String,
    delimiter: String,
}

impl Part {
    fn new(role: &'static str, content: impl Into<String>, delimiter: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            delimiter: delimiter.into(),
        }
    }
}

/// Writes the prompts of a task, document by document and in order: examples are drawn from one generator.
pub(crate) struct Prompter<'a> {
    task: &'a Task,
    options: &'a PromptOptions,
    model: &'a dyn LanguageModel,
    random: PythonRandom,
    num_fewshot: usize,
}

impl<'a> Prompter<'a> {
    pub(crate) fn new(
        task: &'a Task,
        options: &'a PromptOptions,
        model: &'a dyn LanguageModel,
        seed: u64,
    ) -> Self {
        Self {
            task,
            options,
            model,
            random: PythonRandom::new(seed),
            num_fewshot: task.config.shots(options.num_fewshot),
        }
    }

    /// The prompts of a document: one, or one for each choice where choices are contexts.
    pub(crate) fn contexts(&mut self, doc: &Document, index: usize) -> Result<Vec<String>> {
        let task = self.task;
        let config = &task.config;
        let prefix = match &config.gen_prefix {
            None => None,
            Some(source) => Some(task.field_or_template("gen_prefix", source, doc, index)?),
        };
        let prefix = prefix.as_deref();
        let description = task.field_or_template("description", &config.description, doc, index)?;
        let system = maybe_delimit(
            self.options
                .system_instruction
                .as_deref()
                .unwrap_or_default(),
            &description,
            &config.fewshot_delimiter,
        );
        let mut parts = Vec::new();
        if !system.is_empty() {
            parts.push(Part::new("system", system, ""));
        }
        for example in self.examples(doc, index)? {
            self.example(&task.fewshot_docs[example].clone(), example, &mut parts)?;
        }
        let question = task.doc_to_text(doc, index)?;
        if task.multiple_input {
            return task
                .doc_to_choice(doc, index)?
                .iter()
                .map(|context| {
                    let mut parts = parts.clone();
                    turn(&mut parts, context, None, prefix, "", "\n\n");
                    self.write(parts, prefix)
                })
                .collect();
        }
        let question = self.question(&question, doc, index)?;
        turn(
            &mut parts,
            &question,
            None,
            prefix,
            &config.target_delimiter,
            "",
        );
        Ok(vec![self.write(parts, prefix)?])
    }

    fn question(&self, value: &Value, doc: &Document, index: usize) -> Result<String> {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| Error::InvalidField {
                at: Box::new(self.task.at("doc_to_text", doc, index)),
                field: "doc_to_text".to_owned(),
                expected: "text".to_owned(),
                got: python_repr(value),
            })
    }

    /// Positions of the examples of a document.
    fn examples(&mut self, doc: &Document, index: usize) -> Result<Vec<usize>> {
        let (n, pool) = (self.num_fewshot, &self.task.fewshot_docs);
        if n == 0 {
            return Ok(Vec::new());
        }
        let avoid = self.task.may_draw_itself();
        let few = |wanted: usize| Error::TooFewExamples {
            at: Box::new(self.task.at("num_fewshot", doc, index)),
            wanted,
            available: pool.len(),
        };
        let other = |at: &usize| !avoid || pool[*at].row != doc.row;
        if self.task.config.fewshot.sampler == Sampler::FirstN {
            let first: Vec<usize> = (0..pool.len()).filter(other).take(n).collect();
            return if first.len() < n {
                Err(few(n))
            } else {
                Ok(first)
            };
        }
        let wanted = n + usize::from(avoid);
        let drawn = self
            .random
            .sample(pool.len(), wanted)
            .ok_or_else(|| few(wanted))?;
        let kept: Vec<usize> = drawn.into_iter().filter(other).take(n).collect();
        if kept.len() == n {
            return Ok(kept);
        }
        // Copies of the document took more than the one place kept for it.
        let others: Vec<usize> = (0..pool.len())
            .filter(|at| pool[*at].row != doc.row)
            .collect();
        let drawn = self.random.sample(others.len(), n).ok_or_else(|| few(n))?;
        Ok(drawn.into_iter().map(|at| others[at]).collect())
    }

    fn example(&self, doc: &Document, index: usize, parts: &mut Vec<Part>) -> Result<()> {
        let task = self.task;
        let way = &task.config.fewshot;
        let question = task.text_of("doc_to_text", &way.doc_to_text, doc, index)?;
        let choices = match &way.doc_to_choice {
            None => None,
            Some(source) => Some(task.choices_of("doc_to_choice", source, doc, index)?),
        };
        let answer = task.target_of("doc_to_target", &way.doc_to_target, doc, index)?;
        let prefix = match &way.gen_prefix {
            None => None,
            Some(source) => Some(task.field_or_template("gen_prefix", source, doc, index)?),
        };
        let (question, choices) = if task.multiple_input {
            let choices = choices.unwrap_or_default();
            let right = task.gold(&question, &choices).first().copied().flatten();
            let context = right.and_then(|at| choices.get(at)).cloned();
            let context = context.ok_or_else(|| Error::EmptyChoices {
                at: Box::new(task.at("doc_to_text", doc, index)),
            })?;
            (context, None)
        } else {
            (self.question(&question, doc, index)?, choices)
        };
        let answered = !answer.is_null() && answer != "";
        let answer = if answered {
            Some(task.answer_text(&answer, choices.as_deref(), doc, index)?)
        } else {
            None
        };
        turn(
            parts,
            &question,
            answer.as_deref(),
            prefix.as_deref(),
            &way.target_delimiter,
            &way.fewshot_delimiter,
        );
        Ok(())
    }

    fn write(&self, parts: Vec<Part>, prefix: Option<&str>) -> Result<String> {
        if !self.options.apply_chat_template {
            return Ok(parts
                .into_iter()
                .flat_map(|part| [part.content, part.delimiter])
                .collect());
        }
        let turns = if self.options.fewshot_as_multiturn {
            parts
                .into_iter()
                .map(|part| ChatTurn {
                    role: part.role.to_owned(),
                    content: part.content,
                })
                .collect()
        } else {
            single_turn(parts)
        };
        let open = prefix.is_none_or(str::is_empty);
        self.model.render_chat(&turns, open)
    }
}

/// A question with its answer, or with the beginning of one.
fn turn(
    parts: &mut Vec<Part>,
    question: &str,
    answer: Option<&str>,
    prefix: Option<&str>,
    target_delimiter: &str,
    fewshot_delimiter: &str,
) {
    let prefix = prefix.filter(|prefix| !prefix.is_empty());
    let delimiter = match prefix {
        None if answer.is_some() => target_delimiter,
        Some(prefix) if requires_delimiter(question, prefix) => target_delimiter,
        _ => "",
    };
    parts.push(Part::new("user", question, delimiter));
    match (answer, prefix) {
        (Some(answer), prefix) => {
            let answer = maybe_delimit(prefix.unwrap_or_default(), answer, " ");
            parts.push(Part::new("assistant", answer, fewshot_delimiter));
        }
        (None, Some(prefix)) => parts.push(Part::new("assistant", prefix, "")),
        (None, None) => {}
    }
}

/// All but a system message, and the beginning of an answer, as one message of the user.
fn single_turn(mut parts: Vec<Part>) -> Vec<ChatTurn> {
    let chat = |part: Part| ChatTurn {
        role: part.role.to_owned(),
        content: part.content,
    };
    let mut turns = Vec::new();
    if parts.first().is_some_and(|part| part.role == "system") {
        turns.push(chat(parts.remove(0)));
    }
    let begun = if parts.last().is_some_and(|part| part.role == "assistant") {
        parts.pop()
    } else {
        None
    };
    if let Some(last) = parts.last_mut() {
        last.delimiter.clear();
    }
    let content = parts
        .into_iter()
        .flat_map(|part| [part.content, part.delimiter])
        .collect();
    turns.push(ChatTurn {
        role: "user".to_owned(),
        content,
    });
    turns.extend(begun.map(chat));
    turns
}

fn maybe_delimit(before: &str, after: &str, delimiter: &str) -> String {
    if before.is_empty() || after.is_empty() || !requires_delimiter(before, after) {
        format!("{before}{after}")
    } else {
        format!("{before}{delimiter}{after}")
    }
}

/// Whether neither text has white space where they meet.
fn requires_delimiter(before: &str, after: &str) -> bool {
    let ends = before.chars().next_back();
    let starts = after.chars().next();
    ends.is_some_and(|c| !is_space(c)) && !starts.is_some_and(is_space)
}

/// Whether a prefix leaves the delimiter before choices to be written.
pub(crate) fn choice_delimiter(task: &Task, options: &PromptOptions) -> String {
    let delimiter = &task.config.target_delimiter;
    if !options.apply_chat_template {
        return delimiter.clone();
    }
    let prefix = task.config.gen_prefix.as_deref().unwrap_or_default();
    let keeps = !prefix.is_empty() && !prefix.chars().next_back().is_some_and(is_space);
    if keeps {
        delimiter.clone()
    } else {
        String::new()
    }
}
