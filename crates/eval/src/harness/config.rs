//! The fields of a task, checked.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::filters::Pipeline;
use super::functions::{ProcessDocs, ProcessResults};
use super::generation::GenerationOptions;
use super::measures::Measure;
use super::yaml::{Origin, TaskFile};
use crate::error::{Error, Place, Result};

/// What a task asks of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputType {
    /// The likelihood of one target.
    Loglikelihood,
    /// The likelihood of a whole text, in windows.
    LoglikelihoodRolling,
    /// The likelihoods of several continuations, or of one continuation after several contexts.
    MultipleChoice,
    /// Text up to a stop string.
    GenerateUntil,
}

impl OutputType {
    /// The name in task files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loglikelihood => "loglikelihood",
            Self::LoglikelihoodRolling => "loglikelihood_rolling",
            Self::MultipleChoice => "multiple_choice",
            Self::GenerateUntil => "generate_until",
        }
    }
}

/// Where the choices of a document come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Choices {
    /// A column or a template that renders a list.
    Text(String),
    /// The same for all documents.
    Fixed(Vec<String>),
}

/// Which documents become examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampler {
    /// Drawn anew for each document.
    Default,
    /// The first of the split.
    FirstN,
}

/// How few-shot examples are written, where it differs from the task's own way.
#[derive(Debug, Clone)]
pub(crate) struct FewshotConfig {
    pub(crate) sampler: Sampler,
    pub(crate) split: Option<String>,
    pub(crate) samples: Option<Vec<Map<String, Value>>>,
    pub(crate) indices: Option<Vec<usize>>,
    pub(crate) doc_to_text: Value,
    pub(crate) doc_to_target: Value,
    pub(crate) doc_to_choice: Option<Choices>,
    pub(crate) gen_prefix: Option<String>,
    pub(crate) fewshot_delimiter: String,
    pub(crate) target_delimiter: String,
}

/// One task, as its file describes it.
#[derive(Debug, Clone)]
pub struct TaskConfig {
    /// Name.
    pub task: String,
    /// Name in tables.
    pub alias: String,
    /// What it asks of a model.
    pub output_type: OutputType,
    /// Version, `metadata.version` of the file.
    pub version: Value,
    /// Few-shot examples unless the caller wants another number; a task that says 0 keeps to it.
    pub num_fewshot: Option<usize>,
    pub(crate) origin: Origin,
    file: TaskFile,
    pub(crate) dataset_path: Option<String>,
    pub(crate) dataset_name: Option<String>,
    data_files: BTreeMap<String, Vec<String>>,
    pub(crate) training_split: Option<String>,
    pub(crate) validation_split: Option<String>,
    pub(crate) test_split: Option<String>,
    pub(crate) doc_to_text: Value,
    pub(crate) doc_to_target: Value,
    pub(crate) doc_to_choice: Option<Choices>,
    pub(crate) description: String,
    pub(crate) target_delimiter: String,
    pub(crate) fewshot_delimiter: String,
    pub(crate) gen_prefix: Option<String>,
    pub(crate) fewshot: FewshotConfig,
    pub(crate) measures: Vec<Measure>,
    pub(crate) filters: Vec<Pipeline>,
    pub(crate) generation: GenerationOptions,
    pub(crate) repeats: usize,
    pub(crate) process_docs: Option<ProcessDocs>,
    pub(crate) process_results: Option<ProcessResults>,
}

/// Fields that say nothing about prompts or scores.
const IGNORED: &[&str] = &[
    "tag",
    "task_alias",
    "should_decontaminate",
    "doc_to_decontamination_query",
    // Whether the reference may run code that a model wrote; nothing here does.
    concat!("unsafe", "_code"),
];

/// Fields that ask for something that is not here, and what to do about it.
const UNSUPPORTED: &[(&str, &str)] = &[
    (
        "custom_dataset",
        "write the data to a file and name it in dataset_kwargs.data_files",
    ),
    ("doc_to_image", "only text is evaluated"),
    ("doc_to_audio", "only text is evaluated"),
    (
        "use_prompt",
        "write the prompt as a template in doc_to_text",
    ),
];

impl TaskConfig {
    /// Checks the fields of a task.
    pub(crate) fn new(file: &TaskFile) -> Result<Self> {
        let mut fields = Fields::new(file);
        let task = fields.task().to_owned();
        for (field, hint) in UNSUPPORTED {
            if let Some(value) = fields.take(field) {
                return Err(fields.unsupported(field, &value, hint));
            }
        }
        for field in IGNORED.iter().filter(|field| **field != "task_alias") {
            fields.take(field);
        }
        let alias = fields.text("task_alias")?.unwrap_or_else(|| task.clone());
        let output_type = output_type(&mut fields)?;
        let metadata = fields.mapping("metadata")?;
        let version = metadata
            .get("version")
            .cloned()
            .unwrap_or_else(|| "Yaml".into());
        let dataset_path = fields.text("dataset_path")?;
        let process_docs = match fields.take("process_docs") {
            None => None,
            Some(value) => {
                let known = value
                    .as_str()
                    .and_then(|name| ProcessDocs::named(dataset_path.as_deref(), name));
                let hint = "Python is not run; say it in the templates, or write the processed data to a file";
                Some(known.ok_or_else(|| fields.unsupported("process_docs", &value, hint))?)
            }
        };
        let process_results = match fields.take("process_results") {
            None => None,
            Some(value) => {
                let known = value.as_str().and_then(ProcessResults::named);
                let hint = "Python is not run; use a metric of metric_list";
                Some(known.ok_or_else(|| fields.unsupported("process_results", &value, hint))?)
            }
        };
        let required = |fields: &mut Fields<'_>, field: &str| {
            let value = fields.take(field).ok_or_else(|| fields.missing(field))?;
            fields.refuse_function(field, &value)?;
            Ok::<_, Error>(value)
        };
        let doc_to_text = required(&mut fields, "doc_to_text")?;
        let doc_to_target = required(&mut fields, "doc_to_target")?;
        let doc_to_choice = choices(&mut fields, "doc_to_choice")?;
        if output_type == OutputType::MultipleChoice && doc_to_choice.is_none() {
            return Err(fields.missing("doc_to_choice"));
        }
        let fewshot_delimiter = fields
            .text("fewshot_delimiter")?
            .unwrap_or_else(|| "\n\n".into());
        let target_delimiter = fields
            .text("target_delimiter")?
            .unwrap_or_else(|| " ".into());
        let gen_prefix = fields.text("gen_prefix")?;
        let dataset_kwargs = fields.mapping("dataset_kwargs")?;
        let mut config = Self {
            alias,
            output_type,
            version,
            num_fewshot: fields.count("num_fewshot")?,
            origin: file.origin.clone(),
            file: file.clone(),
            dataset_name: fields.text("dataset_name")?,
            data_files: data_files(&fields, dataset_kwargs.get("data_files"))?,
            training_split: fields.text("training_split")?,
            validation_split: fields.text("validation_split")?,
            test_split: fields.text("test_split")?,
            description: fields.text("description")?.unwrap_or_default(),
            fewshot: FewshotConfig {
                sampler: Sampler::Default,
                split: fields.text("fewshot_split")?,
                samples: None,
                indices: None,
                doc_to_text: doc_to_text.clone(),
                doc_to_target: doc_to_target.clone(),
                doc_to_choice: doc_to_choice.clone(),
                gen_prefix: gen_prefix.clone(),
                fewshot_delimiter: fewshot_delimiter.clone(),
                target_delimiter: target_delimiter.clone(),
            },
            measures: Measure::list(&mut fields, output_type, process_results)?,
            filters: Pipeline::list(&mut fields)?,
            generation: GenerationOptions::new(&mut fields, &fewshot_delimiter)?,
            repeats: fields.count("repeats")?.unwrap_or(1).max(1),
            task,
            dataset_path,
            doc_to_text,
            doc_to_target,
            doc_to_choice,
            target_delimiter,
            fewshot_delimiter,
            gen_prefix,
            process_docs,
            process_results,
        };
        let fewshot = fields.mapping("fewshot_config")?;
        config.override_fewshot(fewshot, &fields)?;
        fields.finish()?;
        if config.test_split.is_none() && config.validation_split.is_none() {
            return Err(fields.missing("test_split"));
        }
        Ok(config)
    }

    fn override_fewshot(&mut self, own: Map<String, Value>, fields: &Fields<'_>) -> Result<()> {
        for (key, value) in own {
            let field = format!("fewshot_config.{key}");
            let text = |value: &Value| {
                let text = value.as_str().map(str::to_owned);
                text.ok_or_else(|| fields.invalid(&field, "text", value))
            };
            fields.refuse_function(&field, &value)?;
            match key.as_str() {
                _ if value.is_null() => {}
                "sampler" => {
                    self.fewshot.sampler = match value.as_str() {
                        Some("default") => Sampler::Default,
                        Some("first_n") => Sampler::FirstN,
                        _ => return Err(fields.invalid(&field, "`default` or `first_n`", &value)),
                    };
                }
                "split" => self.fewshot.split = Some(text(&value)?),
                "samples" => {
                    let rows = value.as_array().and_then(|rows| {
                        rows.iter()
                            .map(|row| row.as_object().cloned())
                            .collect::<Option<Vec<_>>>()
                    });
                    let rows =
                        rows.ok_or_else(|| fields.invalid(&field, "a list of mappings", &value))?;
                    self.fewshot.samples = Some(rows);
                }
                "fewshot_indices" => {
                    let indices = value.as_array().and_then(|list| {
                        list.iter()
                            .map(|index| usize::try_from(index.as_u64()?).ok())
                            .collect::<Option<Vec<_>>>()
                    });
                    let indices = indices
                        .ok_or_else(|| fields.invalid(&field, "a list of indices", &value))?;
                    self.fewshot.indices = Some(indices);
                }
                "doc_to_text" => self.fewshot.doc_to_text = value,
                "doc_to_target" => self.fewshot.doc_to_target = value,
                "doc_to_choice" => {
                    self.fewshot.doc_to_choice = Some(one_choice(fields, &field, value)?)
                }
                "gen_prefix" => self.fewshot.gen_prefix = Some(text(&value)?),
                "fewshot_delimiter" => self.fewshot.fewshot_delimiter = text(&value)?,
                "target_delimiter" => self.fewshot.target_delimiter = text(&value)?,
                _ => {
                    return Err(fields.unsupported(
                        &field,
                        &value,
                        "it is no option of few-shot examples",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Few-shot examples when the caller wants `wanted`.
    #[must_use]
    pub fn shots(&self, wanted: Option<usize>) -> usize {
        match (self.num_fewshot, wanted) {
            (Some(0), _) => 0,
            (_, Some(wanted)) => wanted,
            (own, None) => own.unwrap_or(0),
        }
    }

    /// Where a field stands.
    pub(crate) fn place(&self, field: &str) -> Place {
        self.file.place(&self.task, field)
    }

    /// The fields as they stand in the file, with what it includes.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.file.fields
    }

    /// The patterns of a split's files; none when they go by the data set's name.
    pub(crate) fn data_files(&self, split: &str) -> Vec<String> {
        self.data_files.get(split).cloned().unwrap_or_default()
    }

    /// The split that is evaluated.
    pub(crate) fn eval_split(&self) -> &str {
        self.test_split
            .as_deref()
            .or(self.validation_split.as_deref())
            .unwrap_or_default()
    }

    /// The split that examples come from.
    pub(crate) fn fewshot_split(&self) -> &str {
        self.fewshot
            .split
            .as_deref()
            .or(self.training_split.as_deref())
            .or(self.validation_split.as_deref())
            .unwrap_or_else(|| self.eval_split())
    }
}

fn output_type(fields: &mut Fields<'_>) -> Result<OutputType> {
    let known = [
        OutputType::Loglikelihood,
        OutputType::LoglikelihoodRolling,
        OutputType::MultipleChoice,
        OutputType::GenerateUntil,
    ];
    let Some(value) = fields.take("output_type") else {
        return Ok(OutputType::GenerateUntil);
    };
    let found = known
        .into_iter()
        .find(|kind| value.as_str() == Some(kind.name()));
    found.ok_or_else(|| {
        let names = known.map(OutputType::name).join(", ");
        fields.invalid("output_type", &format!("one of {names}"), &value)
    })
}

fn choices(fields: &mut Fields<'_>, field: &str) -> Result<Option<Choices>> {
    match fields.take(field) {
        None => Ok(None),
        Some(value) => one_choice(fields, field, value).map(Some),
    }
}

fn one_choice(fields: &Fields<'_>, field: &str, value: Value) -> Result<Choices> {
    fields.refuse_function(field, &value)?;
    let all = |items: &mut dyn Iterator<Item = &Value>| -> Vec<String> {
        items.map(crate::python::python_str).collect()
    };
    match value {
        Value::String(text) => Ok(Choices::Text(text)),
        Value::Array(items) => Ok(Choices::Fixed(all(&mut items.iter()))),
        Value::Object(items) => Ok(Choices::Fixed(all(&mut items.values()))),
        other => Err(fields.invalid(field, "text, a list or a mapping", &other)),
    }
}

/// `data_files` of the loader: one pattern or list for the split `train`, or a mapping of splits.
fn data_files(fields: &Fields<'_>, value: Option<&Value>) -> Result<BTreeMap<String, Vec<String>>> {
    let list = |value: &Value| -> Result<Vec<String>> {
        let patterns = match value {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(many) => many
                .iter()
                .map(|one| one.as_str().map(str::to_owned))
                .collect(),
            _ => None,
        };
        patterns.ok_or_else(|| fields.invalid("dataset_kwargs.data_files", "paths", value))
    };
    match value {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Object(splits)) => splits
            .iter()
            .map(|(split, files)| Ok((split.clone(), list(files)?)))
            .collect(),
        Some(files) => Ok([("train".to_owned(), list(files)?)].into()),
    }
}
