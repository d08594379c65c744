//! Finding tasks: those that come with the crate, those of files and folders, by name, by group and by tag.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::builtin;
use super::config::TaskConfig;
use super::yaml::TaskFile;
use crate::error::{Error, Place, Result};

/// Tasks and groups by name.
///
/// # Examples
/// ```
/// use flametune_eval::TaskLibrary;
///
/// let library = TaskLibrary::builtin()?;
/// let selection = library.select(&["mmlu"])?;
/// assert_eq!(selection.tasks.len(), 57);
/// assert_eq!(selection.groups.last().unwrap().name, "mmlu");
/// # Ok::<(), flametune_eval::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct TaskLibrary {
    entries: BTreeMap<String, Entry>,
    tags: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone)]
enum Entry {
    Task(TaskFile),
    Group(GroupConfig),
}

/// Tasks whose scores are put together.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupConfig {
    /// Name.
    pub name: String,
    /// Name in tables.
    pub alias: String,
    /// `metadata.version` of the file.
    pub version: Value,
    /// Names of tasks and groups that are in it, directly.
    pub children: Vec<String>,
    /// What is put together, and whether by the number of documents.
    pub(crate) aggregates: Vec<GroupAggregate>,
}

/// One metric of a group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupAggregate {
    pub(crate) metric: String,
    pub(crate) weight_by_size: bool,
    /// Filters to take it from; all that there are when not said.
    pub(crate) filters: Option<Vec<String>>,
}

/// What a list of names stands for.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Tasks, each once, in order.
    pub tasks: Vec<TaskConfig>,
    /// Groups, inner before outer.
    pub groups: Vec<GroupConfig>,
}

impl TaskLibrary {
    /// The tasks that come with the crate.
    ///
    /// # Errors
    /// None with the files as they are; a test reads them all.
    pub fn builtin() -> Result<Self> {
        let mut library = Self::default();
        for (name, text) in builtin::task_files() {
            library.add(TaskFile::builtin(name, text)?)?;
        }
        let (name, text) = builtin::mmlu_file();
        let subject_file = TaskFile::builtin(name, text)?;
        for (subject, field) in builtin::mmlu_subjects() {
            let words = subject.replace('_', " ");
            let intro = format!(
                "The following are multiple choice questions (with answers) about {words}.\n\n"
            );
            let own = json!({
                "task": format!("mmlu_{subject}"),
                "task_alias": subject,
                "dataset_name": subject,
                "description": intro,
                "tag": format!("mmlu_{field}_tasks"),
            });
            if let Value::Object(own) = own {
                library.add(subject_file.with_overrides(&own))?;
            }
        }
        let aggregates = vec![GroupAggregate {
            metric: "acc".into(),
            weight_by_size: true,
            filters: None,
        }];
        let mut group = |name: String, alias: &str, children: Vec<String>| {
            let config = GroupConfig {
                name: name.clone(),
                alias: alias.to_owned(),
                version: json!(2),
                children,
                aggregates: aggregates.clone(),
            };
            library.entries.insert(name, Entry::Group(config));
        };
        for field in builtin::mmlu_fields() {
            group(
                format!("mmlu_{field}"),
                field,
                vec![format!("mmlu_{field}_tasks")],
            );
        }
        let fields = ["stem", "other", "social_sciences", "humanities"];
        group(
            "mmlu".into(),
            "mmlu",
            fields.map(|field| format!("mmlu_{field}")).into(),
        );
        Ok(library)
    }

    /// Adds a task file, or all files ending in `.yaml` or `.yml` of a folder and the folders in it.
    ///
    /// A task of the same name is replaced. Files that are only there to be included are passed over.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Yaml`], [`Error::IncludeCycle`] and the errors of groups.
    pub fn add_path(&mut self, path: &Path) -> Result<()> {
        if !path.is_dir() {
            return self.add(TaskFile::read(path)?);
        }
        let mut open = vec![path.to_owned()];
        let mut files: Vec<PathBuf> = Vec::new();
        while let Some(folder) = open.pop() {
            let entries = std::fs::read_dir(&folder).map_err(Error::io(&folder))?;
            for entry in entries {
                let path = entry.map_err(Error::io(&folder))?.path();
                let ending = path.extension().and_then(|ending| ending.to_str());
                if path.is_dir() && !path.is_symlink() {
                    open.push(path);
                } else if matches!(ending, Some("yaml" | "yml")) {
                    files.push(path);
                }
            }
        }
        files.sort();
        for file in files {
            self.add(TaskFile::read(&file)?)?;
        }
        Ok(())
    }

    fn add(&mut self, file: TaskFile) -> Result<()> {
        if let Some(Value::String(name)) = file.fields.get("group").cloned() {
            let config = self.group(&name, &file)?;
            self.entries.insert(name, Entry::Group(config));
            return Ok(());
        }
        match file.fields.get("task") {
            Some(Value::String(name)) => {
                let name = name.clone();
                self.add_task(name, file);
                Ok(())
            }
            // Without a task of its own it is there to be included.
            _ => Ok(()),
        }
    }

    fn add_task(&mut self, name: String, file: TaskFile) {
        let tags: Vec<String> = match file.fields.get("tag") {
            Some(Value::String(tag)) => vec![tag.clone()],
            Some(Value::Array(tags)) => tags
                .iter()
                .filter_map(|tag| tag.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        };
        for tag in tags {
            let members = self.tags.entry(tag).or_default();
            if !members.contains(&name) {
                members.push(name.clone());
            }
        }
        self.entries.insert(name, Entry::Task(file));
    }

    fn group(&mut self, name: &str, file: &TaskFile) -> Result<GroupConfig> {
        let at = |field: &str| {
            let mut place: Place = file.place(name, field);
            place.task = format!("group {name}");
            Box::new(place)
        };
        let invalid = |field: &str, expected: &str, got: &Value| Error::InvalidField {
            at: at(field),
            field: field.to_owned(),
            expected: expected.to_owned(),
            got: super::fields::shown(got),
        };
        let mut children = Vec::new();
        let listed = match file.fields.get("task") {
            Some(Value::Array(list)) => list.clone(),
            Some(Value::String(one)) => vec![json!(one)],
            Some(other) => return Err(invalid("task", "a list of tasks", other)),
            None => {
                return Err(Error::MissingField {
                    at: at("task"),
                    field: "task".to_owned(),
                });
            }
        };
        for child in listed {
            match child {
                Value::String(child) => children.push(child),
                // A task of the group's own, or one known already with other fields.
                Value::Object(fields) => {
                    children.push(self.child(name, file, &fields).ok_or_else(|| {
                        invalid(
                            "task",
                            "names, or mappings with a `task`",
                            &Value::Object(fields),
                        )
                    })?)
                }
                other => return Err(invalid("task", "names, or mappings with a `task`", &other)),
            }
        }
        let aggregates = match file.fields.get("aggregate_metric_list") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list
                .iter()
                .map(|entry| {
                    aggregate(entry).ok_or_else(|| {
                        invalid(
                            "aggregate_metric_list",
                            "mappings with a `metric` and the aggregation `mean`",
                            entry,
                        )
                    })
                })
                .collect::<Result<_>>()?,
            Some(other) => return Err(invalid("aggregate_metric_list", "a list", other)),
        };
        let text = |field: &str| file.fields.get(field).and_then(Value::as_str);
        let version = file
            .fields
            .get("metadata")
            .and_then(|data| data.get("version"));
        Ok(GroupConfig {
            name: name.to_owned(),
            alias: text("group_alias").unwrap_or(name).to_owned(),
            version: version.cloned().unwrap_or_else(|| json!("N/A")),
            children,
            aggregates,
        })
    }

    /// Adds the task that a group describes in place; its name is prefixed where it would hide another.
    fn child(
        &mut self,
        group: &str,
        file: &TaskFile,
        fields: &Map<String, Value>,
    ) -> Option<String> {
        let name = fields.get("task")?.as_str()?;
        match self.entries.get(name) {
            Some(Entry::Task(known)) => {
                let own = format!("{group}::{name}");
                let mut overrides = fields.clone();
                overrides.insert("task".into(), json!(own));
                let known = known.with_overrides(&overrides);
                self.entries.insert(own.clone(), Entry::Task(known));
                Some(own)
            }
            _ => {
                let mut own = file.clone();
                own.fields = Map::new();
                self.add_task(name.to_owned(), own.with_overrides(fields));
                Some(name.to_owned())
            }
        }
    }

    /// Names of tasks, groups and tags.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let all: BTreeSet<&str> = self
            .entries
            .keys()
            .chain(self.tags.keys())
            .map(String::as_str)
            .collect();
        all.into_iter().collect()
    }

    /// The tasks and groups that names stand for; a tag stands for its tasks, `*` for any letters.
    ///
    /// # Errors
    /// [`Error::UnknownTask`], [`Error::GroupCycle`], and what is wrong with the fields of a task.
    pub fn select<S: AsRef<str>>(&self, names: &[S]) -> Result<Selection> {
        let mut selection = Selection::default();
        let mut seen = BTreeSet::new();
        for name in names {
            let name = name.as_ref();
            if name.contains('*') {
                let matching: Vec<String> = self
                    .entries
                    .keys()
                    .filter(|known| matches_star(name, known))
                    .cloned()
                    .collect();
                if matching.is_empty() {
                    return Err(self.unknown(name));
                }
                for found in matching {
                    self.visit(&found, &mut Vec::new(), &mut seen, &mut selection)?;
                }
            } else {
                self.visit(name, &mut Vec::new(), &mut seen, &mut selection)?;
            }
        }
        for group in &mut selection.groups {
            group.children = self.expand(&group.children);
        }
        Ok(selection)
    }

    /// Tags among names, replaced by their tasks.
    fn expand(&self, names: &[String]) -> Vec<String> {
        names
            .iter()
            .flat_map(
                |name| match (self.entries.contains_key(name), self.tags.get(name)) {
                    (false, Some(members)) => members.clone(),
                    _ => vec![name.clone()],
                },
            )
            .collect()
    }

    fn visit(
        &self,
        name: &str,
        open: &mut Vec<String>,
        seen: &mut BTreeSet<String>,
        selection: &mut Selection,
    ) -> Result<()> {
        if open.iter().any(|outer| outer == name) {
            return Err(Error::GroupCycle {
                name: name.to_owned(),
            });
        }
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        match (self.entries.get(name), self.tags.get(name)) {
            (Some(Entry::Task(file)), _) => {
                selection.tasks.push(TaskConfig::new(file)?);
                Ok(())
            }
            (Some(Entry::Group(group)), _) => {
                open.push(name.to_owned());
                for child in &group.children {
                    self.visit(child, open, seen, selection)?;
                }
                open.pop();
                selection.groups.push(group.clone());
                Ok(())
            }
            (None, Some(members)) => members
                .iter()
                .try_for_each(|member| self.visit(member, open, seen, selection)),
            (None, None) => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let mut near: Vec<(usize, &str)> = self
            .names()
            .into_iter()
            .map(|known| (distance(name, known), known))
            .filter(|(distance, known)| *distance <= name.len() / 3 + 1 || known.contains(name))
            .collect();
        near.sort();
        Error::UnknownTask {
            name: name.to_owned(),
            near: near
                .into_iter()
                .take(5)
                .map(|(_, known)| known.to_owned())
                .collect(),
        }
    }
}

fn aggregate(entry: &Value) -> Option<GroupAggregate> {
    let metric = entry.get("metric")?.as_str()?;
    let aggregation = entry
        .get("aggregation")
        .and_then(Value::as_str)
        .unwrap_or("mean");
    let filters = match entry.get("filter_list") {
        None | Some(Value::Null) => None,
        Some(Value::String(one)) => Some(vec![one.clone()]),
        Some(Value::Array(many)) => Some(
            many.iter()
                .map(|one| one.as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
        ),
        Some(_) => return None,
    };
    (aggregation == "mean").then(|| GroupAggregate {
        metric: metric.to_owned(),
        weight_by_size: entry
            .get("weight_by_size")
            .and_then(Value::as_bool)
            .unwrap_or(true),
        filters,
    })
}

/// Whether a name fits a pattern in which `*` stands for any letters.
fn matches_star(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            None => return false,
            Some(at) => rest = &rest[at + part.len()..],
        }
    }
    rest.ends_with(last)
}

/// Insertions, deletions and replacements between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != *y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
