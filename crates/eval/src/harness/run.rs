//! Evaluating a model on tasks.

use serde_json::{Value, json};

use super::config::OutputType;
use super::document::DataFolders;
use super::library::Selection;
use super::measures::Item;
use super::prompt::{PromptOptions, Prompter, choice_delimiter};
use super::results::{Evaluation, MetricResult, Sample, TaskResult, group_results};
use super::scoring::{response_json, score};
use super::task::Task;
use crate::cache::{AnswerCache, answer_cached};
use crate::error::{Error, Result};
use crate::model::{LanguageModel, ModelRequest, ModelResponse};
use crate::python::python_str;

/// How tasks are run.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalOptions {
    /// How prompts are written.
    pub prompt: PromptOptions,
    /// Only the first documents: a number of at least 1, or a share below it.
    pub limit: Option<f64>,
    /// Seed of few-shot sampling.
    pub fewshot_seed: u64,
    /// Resamples of bootstrapped standard errors; 0 leaves all standard errors out.
    pub bootstrap_iters: usize,
    /// Where data are, for tasks that name a data set and no files.
    pub data: DataFolders,
}

impl Default for EvalOptions {
    /// What lm-eval does without options.
    fn default() -> Self {
        Self {
            prompt: PromptOptions::default(),
            limit: None,
            fewshot_seed: 1234,
            bootstrap_iters: 100_000,
            data: DataFolders::default(),
        }
    }
}

/// How far an evaluation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Requests that are answered.
    pub done: usize,
    /// All requests.
    pub total: usize,
}

/// The requests of one document.
struct Asked {
    doc: usize,
    /// Positions among all requests: one per choice, or one per repeat.
    requests: Vec<usize>,
    arguments: Vec<Value>,
}

/// Evaluates a model: builds all prompts, asks for what `cache` does not hold, scores.
///
/// Whatever is wrong with tasks, data and templates is found before the model is asked anything.
///
/// # Errors
/// Those of [`Task::load`] and of templates, with task, file, line and document; those of the model and the cache,
/// after which the answers that came stay in the cache.
pub fn evaluate(
    model: &dyn LanguageModel,
    selection: &Selection,
    options: &EvalOptions,
    cache: Option<&mut AnswerCache>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Evaluation> {
    let mut tasks = Vec::new();
    let mut requests = Vec::new();
    for config in &selection.tasks {
        let task = Task::load(config.clone(), &options.data, options.prompt.num_fewshot)?;
        let asked = ask(&task, options, model, &mut requests)?;
        tasks.push((task, asked));
    }
    let responses = answer_cached(model, &requests, cache, &mut |done, total| {
        progress(Progress { done, total });
    })?;
    let mut warnings = Vec::new();
    let mut results = Vec::new();
    for (task, asked) in &tasks {
        results.push(score_task(task, asked, &responses, options, &mut warnings)?);
    }
    let groups = group_results(&selection.groups, &results);
    Ok(Evaluation {
        model: model.fingerprint(),
        tasks: results,
        groups,
        group_configs: selection.groups.clone(),
        warnings,
    })
}

/// How many documents take part.
fn limited(n: usize, limit: Option<f64>) -> usize {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float too large for an integer becomes the largest"
    )]
    match limit {
        None => n,
        Some(limit) if limit < 1.0 => ((n as f64 * limit).ceil() as usize).min(n),
        Some(limit) => (limit as usize).min(n),
    }
}

fn ask(
    task: &Task,
    options: &EvalOptions,
    model: &dyn LanguageModel,
    requests: &mut Vec<ModelRequest>,
) -> Result<Vec<Asked>> {
    let mut prompter = Prompter::new(task, &options.prompt, model, options.fewshot_seed);
    let delimiter = choice_delimiter(task, &options.prompt);
    let n = limited(task.docs.len(), options.limit);
    let mut all = Vec::with_capacity(n);
    for (index, doc) in task.docs[..n].iter().enumerate() {
        let contexts = prompter.contexts(doc, index)?;
        let mut context = contexts.first().cloned().unwrap_or_default();
        let own: Vec<ModelRequest> = match task.output_type() {
            OutputType::Loglikelihood => vec![ModelRequest::Loglikelihood {
                context,
                continuation: python_str(&task.doc_to_target(doc, index)?),
            }],
            OutputType::LoglikelihoodRolling => vec![ModelRequest::LoglikelihoodRolling {
                text: python_str(&task.doc_to_target(doc, index)?),
            }],
            OutputType::MultipleChoice => {
                let choices = task.doc_to_choice(doc, index)?;
                let pair = |context: &str, continuation: &str| ModelRequest::Loglikelihood {
                    context: context.to_owned(),
                    continuation: format!("{delimiter}{continuation}"),
                };
                let mut own: Vec<ModelRequest> = if task.multiple_input {
                    let target = python_str(&task.doc_to_target(doc, index)?);
                    contexts
                        .iter()
                        .map(|context| pair(context, &target))
                        .collect()
                } else {
                    choices
                        .iter()
                        .map(|choice| pair(&context, choice))
                        .collect()
                };
                let measures = &task.config.measures;
                if measures
                    .iter()
                    .any(|measure| measure.name == "acc_mutual_info")
                {
                    own.extend(choices.iter().map(|choice| pair("", choice)));
                }
                own
            }
            OutputType::GenerateUntil => {
                let repeats = task.config.repeats;
                (0..repeats)
                    .map(|repeat| ModelRequest::GenerateUntil {
                        context: if repeat + 1 == repeats {
                            std::mem::take(&mut context)
                        } else {
                            context.clone()
                        },
                        options: task.config.generation.clone(),
                        repeat,
                    })
                    .collect()
            }
        };
        all.push(Asked {
            doc: index,
            requests: (requests.len()..requests.len() + own.len()).collect(),
            arguments: own.iter().map(arguments).collect(),
        });
        requests.extend(own);
    }
    Ok(all)
}

fn arguments(request: &ModelRequest) -> Value {
    match request {
        ModelRequest::Loglikelihood {
            context,
            continuation,
        } => json!([context, continuation]),
        ModelRequest::LoglikelihoodRolling { text } => json!([text]),
        ModelRequest::GenerateUntil {
            context, options, ..
        } => json!([context, options]),
    }
}

fn score_task(
    task: &Task,
    asked: &[Asked],
    responses: &[ModelResponse],
    options: &EvalOptions,
    warnings: &mut Vec<String>,
) -> Result<TaskResult> {
    let config = &task.config;
    let mut samples = Vec::new();
    let mut metrics = Vec::new();
    for pipeline in &config.filters {
        let mut columns: Vec<Vec<Item>> = vec![Vec::new(); config.measures.len()];
        for asked in asked {
            let doc = &task.docs[asked.doc];
            let own: Vec<ModelResponse> = asked
                .requests
                .iter()
                .map(|&at| responses[at].clone())
                .collect();
            let logged: Vec<Value> = own.iter().map(response_json).collect();
            let filtered = if task.output_type() == OutputType::GenerateUntil {
                pipeline.apply(&logged, &doc.row)
            } else {
                Value::Array(logged.clone())
            };
            let items = score(task, doc, asked.doc, &own, &filtered, warnings)?;
            let mut scores = Vec::new();
            for (at, item) in items {
                scores.push((config.measures[at].name.clone(), item.clone()));
                columns[at].push(item);
            }
            samples.push(Sample {
                doc_id: asked.doc,
                filter: pipeline.name.clone(),
                doc: doc.row.clone(),
                target: task.doc_to_target(doc, asked.doc)?,
                arguments: asked.arguments.clone(),
                responses: logged,
                filtered,
                scores,
            });
        }
        for (measure, items) in config.measures.iter().zip(columns) {
            if items.is_empty() {
                continue;
            }
            let value = measure.aggregate(&items).map_err(|reason| Error::Metric {
                at: Box::new(config.place("metric_list")),
                metric: measure.name.clone(),
                reason: reason.to_owned(),
            })?;
            metrics.push(MetricResult {
                metric: measure.name.clone(),
                filter: pipeline.name.clone(),
                value,
                stderr: measure.stderr(&items, options.bootstrap_iters),
                higher_is_better: measure.higher_is_better,
            });
        }
    }
    Ok(TaskResult {
        name: config.task.clone(),
        alias: config.alias.clone(),
        version: config.version.clone(),
        num_fewshot: config.shots(options.prompt.num_fewshot),
        config: Value::Object(config.fields().clone()),
        original: task.docs.len(),
        effective: asked.len(),
        metrics,
        samples,
    })
}
