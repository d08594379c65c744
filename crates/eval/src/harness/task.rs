//! A task with its documents: what `doc_to_text` and its companions give for each.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::config::{Choices, OutputType, TaskConfig};
use super::document::{DataFolders, Document, Documents, read_split};
use super::template::render;
use crate::error::{Error, Place, Result};
use crate::python::{is_digit, literal_eval, python_repr, python_str};

/// A task whose documents are in memory.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its fields.
    pub config: TaskConfig,
    /// The documents that are evaluated.
    pub docs: Vec<Document>,
    pub(crate) fewshot_docs: Vec<Document>,
    columns: BTreeSet<String>,
    /// Whether each choice is a context of its own, and the target the same for all.
    pub(crate) multiple_input: bool,
    /// Whether a document can have several right answers.
    pub(crate) multiple_target: bool,
}

impl Task {
    /// Reads the documents of a task, from the files it names or from below `folders`, and those that examples come
    /// from if there are to be any; `num_fewshot` is the caller's wish.
    ///
    /// # Errors
    /// [`Error::MissingData`], [`Error::Data`], [`Error::NoDocuments`], and whatever the first document shows to be
    /// wrong with the templates.
    pub fn load(
        config: TaskConfig,
        folders: &DataFolders,
        num_fewshot: Option<usize>,
    ) -> Result<Self> {
        let eval = read_split(&config, config.eval_split(), folders, config.process_docs)?;
        let fewshot = if config.fewshot.samples.is_some() || config.shots(num_fewshot) == 0 {
            Documents::default()
        } else if config.fewshot_split() == config.eval_split() {
            eval.clone()
        } else {
            read_split(
                &config,
                config.fewshot_split(),
                folders,
                config.process_docs,
            )?
        };
        Self::new(config, eval, fewshot)
    }

    fn new(config: TaskConfig, eval: Documents, fewshot: Documents) -> Result<Self> {
        let fewshot_docs = match (&config.fewshot.samples, &config.fewshot.indices) {
            (Some(samples), None) => samples
                .iter()
                .enumerate()
                .map(|(index, row)| {
                    Document::new(row.clone(), format!("fewshot_config.samples[{index}]"))
                })
                .collect(),
            (_, Some(indices)) => {
                let available = fewshot.docs.len();
                let picked = indices
                    .iter()
                    .map(|&index| fewshot.docs.get(index).cloned());
                picked
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(|| Error::TooFewExamples {
                        at: Box::new(config.place("fewshot_config")),
                        wanted: indices.iter().max().map_or(0, |most| most + 1),
                        available,
                    })?
            }
            (None, None) => fewshot.docs,
        };
        let mut task = Self {
            config,
            docs: eval.docs,
            fewshot_docs,
            columns: eval.columns,
            multiple_input: false,
            multiple_target: false,
        };
        let Some(first) = task.docs.first() else {
            return Err(Error::NoDocuments {
                at: Box::new(task.config.place("dataset_path")),
                split: task.config.eval_split().to_owned(),
            });
        };
        // The first document decides, as in the reference.
        let text = task.doc_to_text(first, 0)?;
        let target = task.doc_to_target(first, 0)?;
        task.multiple_input = text.is_i64() && task.config.doc_to_choice.is_some();
        task.multiple_target = target.is_array();
        Ok(task)
    }

    /// Where a field stands, for a document.
    pub(crate) fn at(&self, field: &str, doc: &Document, index: usize) -> Place {
        Place {
            doc: Some(index),
            data: Some(doc.at.clone()),
            ..self.config.place(field)
        }
    }

    /// The prompt of a document: text, or the number of the context that is right.
    pub(crate) fn doc_to_text(&self, doc: &Document, index: usize) -> Result<Value> {
        self.text_of("doc_to_text", &self.config.doc_to_text, doc, index)
    }

    pub(crate) fn text_of(
        &self,
        field: &str,
        source: &Value,
        doc: &Document,
        index: usize,
    ) -> Result<Value> {
        let Some(source) = source.as_str() else {
            return Ok(source.clone());
        };
        if self.columns.contains(source) {
            return Ok(doc.row.get(source).cloned().unwrap_or(Value::Null));
        }
        let text = self.render(field, source, doc, index)?;
        if is_digit(&text) && self.config.doc_to_choice.is_some() {
            return self.literal(field, &text, doc, index);
        }
        Ok(json!(text))
    }

    /// The right answer: text, a number of a choice, or a list of either.
    pub(crate) fn doc_to_target(&self, doc: &Document, index: usize) -> Result<Value> {
        self.target_of("doc_to_target", &self.config.doc_to_target, doc, index)
    }

    pub(crate) fn target_of(
        &self,
        field: &str,
        source: &Value,
        doc: &Document,
        index: usize,
    ) -> Result<Value> {
        let Some(source) = source.as_str() else {
            return Ok(source.clone());
        };
        if self.columns.contains(source) {
            let value = doc.row.get(source).cloned().unwrap_or(Value::Null);
            // True is 1 for whoever counts with it.
            return Ok(match value {
                Value::Bool(flag) => json!(i64::from(flag)),
                other => other,
            });
        }
        let text = self.render(field, source, doc, index)?;
        if is_digit(&text) && self.config.doc_to_choice.is_some() {
            return self.literal(field, &text, doc, index);
        }
        if text.len() >= 2 && text.starts_with('[') && text.ends_with(']') {
            return Ok(literal_eval(&text).unwrap_or(json!(text)));
        }
        Ok(json!(text))
    }

    /// The choices of a document.
    pub(crate) fn doc_to_choice(&self, doc: &Document, index: usize) -> Result<Vec<String>> {
        match &self.config.doc_to_choice {
            None => Ok(Vec::new()),
            Some(source) => self.choices_of("doc_to_choice", source, doc, index),
        }
    }

    pub(crate) fn choices_of(
        &self,
        field: &str,
        source: &Choices,
        doc: &Document,
        index: usize,
    ) -> Result<Vec<String>> {
        let choices = match source {
            Choices::Fixed(choices) => choices.clone(),
            Choices::Text(source) => {
                let value = if self.columns.contains(source) {
                    doc.row.get(source).cloned().unwrap_or(Value::Null)
                } else {
                    let text = self.render(field, source, doc, index)?;
                    self.literal(field, &text, doc, index)?
                };
                let Value::Array(items) = value else {
                    return Err(Error::InvalidField {
                        at: Box::new(self.at(field, doc, index)),
                        field: field.to_owned(),
                        expected: "a list of choices".to_owned(),
                        got: super::fields::shown(&value),
                    });
                };
                items.iter().map(python_str).collect()
            }
        };
        if choices.is_empty() {
            return Err(Error::EmptyChoices {
                at: Box::new(self.at(field, doc, index)),
            });
        }
        Ok(choices)
    }

    /// A column of a document, or a template: the way prefixes and descriptions are given.
    pub(crate) fn field_or_template(
        &self,
        field: &str,
        source: &str,
        doc: &Document,
        index: usize,
    ) -> Result<String> {
        match doc.row.get(source) {
            Some(value) => Ok(python_str(value)),
            None if source.is_empty() => Ok(String::new()),
            None => self.render(field, source, doc, index),
        }
    }

    fn render(&self, field: &str, source: &str, doc: &Document, index: usize) -> Result<String> {
        render(source, &doc.jinja).map_err(|error| {
            let mut at = self.at(field, doc, index);
            // A template over several lines begins on the field's line or on the one after it.
            let block =
                usize::from(source.contains('\n') && error.line.is_some_and(|line| line > 1));
            at.line = at.line.map(|line| line + block * (error.line.unwrap_or(1)));
            Error::Template {
                at: Box::new(at),
                field: field.to_owned(),
                reason: error.reason,
            }
        })
    }

    fn literal(&self, field: &str, text: &str, doc: &Document, index: usize) -> Result<Value> {
        literal_eval(text).map_err(|error| Error::Template {
            at: Box::new(self.at(field, doc, index)),
            field: field.to_owned(),
            reason: format!("the text is no literal: {error}"),
        })
    }

    /// The gold answers as numbers of choices; `None` stands for one that is no choice.
    pub(crate) fn gold(&self, value: &Value, choices: &[String]) -> Vec<Option<usize>> {
        let one = |value: &Value| match value {
            Value::Number(number) => {
                let at = number.as_i64()?;
                // Python counts from the end below zero.
                let at = if at < 0 {
                    i64::try_from(choices.len()).ok()? + at
                } else {
                    at
                };
                usize::try_from(at).ok().filter(|&at| at < choices.len())
            }
            Value::String(text) => choices.iter().position(|choice| choice == text),
            _ => None,
        };
        match value {
            Value::Array(many) => many.iter().map(one).collect(),
            other => vec![one(other)],
        }
    }

    /// The answer of an example as text.
    pub(crate) fn answer_text(
        &self,
        answer: &Value,
        choices: Option<&[String]>,
        doc: &Document,
        index: usize,
    ) -> Result<String> {
        let wrong = || Error::InvalidField {
            at: Box::new(self.at("doc_to_target", doc, index)),
            field: "doc_to_target".to_owned(),
            expected: "text or the number of a choice".to_owned(),
            got: python_repr(answer),
        };
        match (answer, choices) {
            (Value::Number(_), Some(choices)) => {
                let at = self.gold(answer, choices);
                at.first()
                    .copied()
                    .flatten()
                    .map(|at| choices[at].clone())
                    .ok_or_else(wrong)
            }
            (Value::Array(many), _) => many
                .first()
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or_else(wrong),
            (Value::String(text), _) => Ok(text.clone()),
            _ => Err(wrong()),
        }
    }

    /// Whether examples are drawn from the documents that are evaluated.
    pub(crate) fn may_draw_itself(&self) -> bool {
        // The reference compares the names, so two that are not given are the same.
        self.config.fewshot.split == self.config.test_split
    }

    /// What the task asks of a model.
    #[must_use]
    pub fn output_type(&self) -> OutputType {
        self.config.output_type
    }

    /// The columns of a document.
    #[must_use]
    pub fn row(&self, index: usize) -> Option<&Map<String, Value>> {
        self.docs.get(index).map(|doc| &doc.row)
    }
}
