//! Results, in memory and in the shape that the reference writes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::library::GroupConfig;
use super::measures::Item;
use crate::stats::{pooled_sample_stderr, unweighted_mean_stderr, weighted_mean};

/// One metric after one filter.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricResult {
    /// Such as `acc`.
    pub metric: String,
    /// Such as `none`.
    pub filter: String,
    /// The score.
    pub value: f64,
    /// Its standard error, where there is one.
    pub stderr: Option<f64>,
    /// Whether more is better.
    pub higher_is_better: bool,
}

impl MetricResult {
    /// The key in results: `acc,none`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{},{}", self.metric, self.filter)
    }
}

/// What was asked about one document, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Number of the document in its split, from zero.
    pub doc_id: usize,
    /// The filter pipeline.
    pub filter: String,
    /// The columns.
    pub doc: Map<String, Value>,
    /// The right answer.
    pub target: Value,
    /// What the model was given, a list a request.
    pub arguments: Vec<Value>,
    /// What it answered.
    pub responses: Vec<Value>,
    /// The answers after the filters.
    pub filtered: Value,
    /// What each metric made of it.
    pub scores: Vec<(String, Item)>,
}

/// A task's scores.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// Name.
    pub name: String,
    /// Name in tables.
    pub alias: String,
    /// Version of the task.
    pub version: Value,
    /// Few-shot examples.
    pub num_fewshot: usize,
    /// The task's fields.
    pub config: Value,
    /// Documents of the split.
    pub original: usize,
    /// Documents that were evaluated.
    pub effective: usize,
    /// Scores, filter by filter.
    pub metrics: Vec<MetricResult>,
    /// Documents, filter by filter.
    pub samples: Vec<Sample>,
}

impl TaskResult {
    /// A metric by its key, such as `acc,none`.
    #[must_use]
    pub fn metric(&self, key: &str) -> Option<&MetricResult> {
        self.metrics.iter().find(|metric| metric.key() == key)
    }

    /// A number per document for a metric, in the order of documents; `None` where the metric has no such numbers.
    ///
    /// For perplexities it is the loss a word or byte, so that less is better, whatever the metric's own sign.
    #[must_use]
    pub fn per_document(&self, metric: &MetricResult) -> Option<Vec<(usize, f64)>> {
        self.samples
            .iter()
            .filter(|sample| sample.filter == metric.filter)
            .map(|sample| {
                let item = sample
                    .scores
                    .iter()
                    .find(|(name, _)| *name == metric.metric);
                Some((sample.doc_id, item?.1.comparable()?))
            })
            .collect()
    }
}

/// A group's scores.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupResult {
    /// Name.
    pub name: String,
    /// Name in tables.
    pub alias: String,
    /// Version of the group.
    pub version: Value,
    /// Documents of all its tasks.
    pub sample_len: usize,
    /// Scores.
    pub metrics: Vec<MetricResult>,
}

/// All that an evaluation found out.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Fingerprint of the model.
    pub model: String,
    /// Tasks in the order they were selected.
    pub tasks: Vec<TaskResult>,
    /// Groups, inner before outer.
    pub groups: Vec<GroupResult>,
    pub(crate) group_configs: Vec<GroupConfig>,
    /// What was odd but no reason to stop.
    pub warnings: Vec<String>,
}

impl Evaluation {
    /// A task by name.
    #[must_use]
    pub fn task(&self, name: &str) -> Option<&TaskResult> {
        self.tasks.iter().find(|task| task.name == name)
    }

    /// Results as lm-eval writes them: `results`, `groups`, `configs`, `versions`, `n-shot`, `n-samples`, ….
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut results = Map::new();
        let mut group_scores = Map::new();
        for task in &self.tasks {
            let head =
                json!({"name": task.name, "alias": task.alias, "sample_len": task.effective});
            results.insert(task.name.clone(), with_metrics(head, &task.metrics));
        }
        for group in &self.groups {
            let mut head = json!({"alias": group.alias, "name": group.name});
            if !group.metrics.is_empty() {
                head["sample_len"] = json!(group.sample_len);
            }
            let scores = with_metrics(head, &group.metrics);
            if !group.metrics.is_empty() {
                group_scores.insert(group.name.clone(), scores.clone());
            }
            results.insert(group.name.clone(), scores);
        }
        let sorted = |pairs: Vec<(&String, Value)>| -> Map<String, Value> {
            let sorted: BTreeMap<String, Value> = pairs
                .into_iter()
                .map(|(key, value)| (key.clone(), value))
                .collect();
            sorted.into_iter().collect()
        };
        let tasks = |value: &dyn Fn(&TaskResult) -> Value| {
            sorted(
                self.tasks
                    .iter()
                    .map(|task| (&task.name, value(task)))
                    .collect(),
            )
        };
        let mut versions = tasks(&|task| task.version.clone());
        for group in &self.groups {
            versions.insert(group.name.clone(), group.version.clone());
        }
        let higher = |task: &TaskResult| {
            let flags: Map<String, Value> = task
                .metrics
                .iter()
                .map(|metric| (metric.metric.clone(), json!(metric.higher_is_better)))
                .collect();
            Value::Object(flags)
        };
        let mut out = json!({"results": results});
        if !group_scores.is_empty() {
            out["groups"] = Value::Object(group_scores);
        }
        let subtasks: Map<String, Value> = self
            .group_configs
            .iter()
            .map(|group| (group.name.clone(), json!(group.children)))
            .collect();
        out["group_subtasks"] = Value::Object(subtasks);
        out["configs"] = Value::Object(tasks(&|task| task.config.clone()));
        out["versions"] = Value::Object(versions);
        out["n-shot"] = Value::Object(tasks(&|task| json!(task.num_fewshot)));
        out["higher_is_better"] = Value::Object(tasks(&higher));
        out["n-samples"] = Value::Object(tasks(
            &|task| json!({"original": task.original, "effective": task.effective}),
        ));
        out["model"] = json!(self.model);
        out
    }

    /// One JSON object a document, as `--log_samples` writes them.
    #[must_use]
    pub fn samples_json(&self, task: &TaskResult) -> Vec<Value> {
        task.samples
            .iter()
            .map(|sample| {
                let mut row = json!({
                    "doc_id": sample.doc_id,
                    "doc": sample.doc,
                    "target": sample.target,
                    "arguments": sample.arguments,
                    "resps": sample.responses,
                    "filtered_resps": sample.filtered,
                    "filter": sample.filter,
                    "metrics": sample.scores.iter().map(|(name, _)| name).collect::<Vec<_>>(),
                });
                for (name, item) in &sample.scores {
                    row[name] = item.to_json();
                }
                row
            })
            .collect()
    }
}

fn with_metrics(mut head: Value, metrics: &[MetricResult]) -> Value {
    for metric in metrics {
        let stderr = metric.stderr.map_or(json!("N/A"), |stderr| json!(stderr));
        head[metric.key()] = json!(metric.value);
        head[format!("{}_stderr,{}", metric.metric, metric.filter)] = stderr;
    }
    head
}

/// Puts the scores of groups together from their tasks.
pub(crate) fn group_results(groups: &[GroupConfig], tasks: &[TaskResult]) -> Vec<GroupResult> {
    groups
        .iter()
        .map(|group| {
            let leaves = leaves(group, groups);
            let own: Vec<&TaskResult> = leaves
                .iter()
                .filter_map(|leaf| tasks.iter().find(|task| task.name == *leaf))
                .collect();
            let mut metrics = Vec::new();
            for wanted in &group.aggregates {
                let filters: Vec<String> = match &wanted.filters {
                    Some(filters) => filters.clone(),
                    None => {
                        let found: BTreeSet<&String> = own
                            .iter()
                            .flat_map(|task| &task.metrics)
                            .filter(|metric| metric.metric == wanted.metric)
                            .map(|metric| &metric.filter)
                            .collect();
                        found.into_iter().cloned().collect()
                    }
                };
                for filter in filters {
                    let key = format!("{},{filter}", wanted.metric);
                    metrics.extend(aggregate(&own, &key, wanted.weight_by_size));
                }
            }
            GroupResult {
                name: group.name.clone(),
                alias: group.alias.clone(),
                version: group.version.clone(),
                sample_len: own.iter().map(|task| task.effective).sum(),
                metrics,
            }
        })
        .collect()
}

/// Names of the tasks in a group and in the groups in it.
fn leaves(group: &GroupConfig, groups: &[GroupConfig]) -> Vec<String> {
    group
        .children
        .iter()
        .flat_map(
            |child| match groups.iter().find(|inner| inner.name == *child) {
                Some(inner) if inner.name != group.name => leaves(inner, groups),
                _ => vec![child.clone()],
            },
        )
        .collect()
}

fn aggregate(tasks: &[&TaskResult], key: &str, weight_by_size: bool) -> Option<MetricResult> {
    let found: Vec<(&MetricResult, usize)> = tasks
        .iter()
        .filter_map(|task| Some((task.metric(key)?, task.effective)))
        .collect();
    let (first, _) = found.first()?;
    let values: Vec<f64> = found.iter().map(|(metric, _)| metric.value).collect();
    let sizes: Vec<usize> = found.iter().map(|(_, size)| *size).collect();
    let weights: Vec<f64> = sizes
        .iter()
        .map(|&size| if weight_by_size { size as f64 } else { 1.0 })
        .collect();
    let stderrs: Option<Vec<f64>> = found.iter().map(|(metric, _)| metric.stderr).collect();
    Some(MetricResult {
        metric: first.metric.clone(),
        filter: first.filter.clone(),
        value: weighted_mean(&values, &weights),
        stderr: stderrs.map(|stderrs| {
            if weight_by_size {
                pooled_sample_stderr(&stderrs, &sizes)
            } else {
                unweighted_mean_stderr(&stderrs)
            }
        }),
        higher_is_better: first.higher_is_better,
    })
}
