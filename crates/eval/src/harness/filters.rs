//! Filters between a model's answers and the metrics.

use regex::Regex;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::error::Result;
use crate::python::{python_regex, strip};

/// Filters that are applied one after the other; their result has a name of its own.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    pub(crate) name: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Regex(Box<RegexFilter>),
    MultiChoiceRegex(Box<RegexFilter>, Box<MultiChoice>),
    TakeFirst,
    TakeFirstK(usize),
    MajorityVote,
    RemoveWhitespace,
    Lowercase,
    Uppercase,
    Map {
        mapping: Map<String, Value>,
        default: Value,
    },
}

#[derive(Debug, Clone)]
struct RegexFilter {
    regex: Regex,
    group_select: i64,
    fallback: Value,
}

#[derive(Debug, Clone)]
struct MultiChoice {
    ignore_case: bool,
    ignore_punctuation: bool,
    ignored: Vec<Regex>,
}

impl Pipeline {
    /// What happens without a `filter_list`: the first answer counts.
    fn none() -> Self {
        Self {
            name: "none".into(),
            steps: vec![Step::TakeFirst],
        }
    }

    /// Reads `filter_list`.
    pub(crate) fn list(fields: &mut Fields<'_>) -> Result<Vec<Self>> {
        let Some(entries) = fields.mappings("filter_list")? else {
            return Ok(vec![Self::none()]);
        };
        let mut pipelines = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let at = format!("filter_list[{index}]");
            let name = entry.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| fields.missing(&format!("{at}.name")))?;
            let steps = entry.get("filter").and_then(Value::as_array);
            let steps = steps.ok_or_else(|| fields.missing(&format!("{at}.filter")))?;
            pipelines.push(Self {
                name: name.to_owned(),
                steps: steps
                    .iter()
                    .enumerate()
                    .map(|(step, value)| Step::new(fields, &format!("{at}.filter[{step}]"), value))
                    .collect::<Result<_>>()?,
            });
        }
        Ok(pipelines)
    }

    /// What becomes of all answers to one request.
    pub(crate) fn apply(&self, responses: &[Value], doc: &Map<String, Value>) -> Value {
        let mut value = Value::Array(responses.to_vec());
        for step in &self.steps {
            value = step.apply(value, doc);
        }
        value
    }
}

impl Step {
    fn new(fields: &Fields<'_>, at: &str, value: &Value) -> Result<Self> {
        let options = value.as_object();
        let name = options.and_then(|options| options.get("function")?.as_str());
        let (Some(options), Some(name)) = (options, name) else {
            return Err(fields.missing(&format!("{at}.function")));
        };
        let flag = |key: &str| options.get(key).and_then(Value::as_bool).unwrap_or(false);
        match name {
            "regex" => Ok(Self::Regex(Box::new(RegexFilter::new(
                fields, at, options,
            )?))),
            "multi_choice_regex" => {
                let ignored = options.get("regexes_to_ignore").and_then(Value::as_array);
                let ignored = ignored
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(|pattern| compile(fields, at, pattern))
                    .collect::<Result<_>>()?;
                Ok(Self::MultiChoiceRegex(
                    Box::new(RegexFilter::new(fields, at, options)?),
                    Box::new(MultiChoice {
                        ignore_case: flag("ignore_case"),
                        ignore_punctuation: flag("ignore_punctuation"),
                        ignored,
                    }),
                ))
            }
            "take_first" => Ok(Self::TakeFirst),
            "take_first_k" => {
                let k = options.get("k").and_then(Value::as_u64);
                let k = k.and_then(|k| usize::try_from(k).ok());
                Ok(Self::TakeFirstK(
                    k.ok_or_else(|| fields.missing(&format!("{at}.k")))?,
                ))
            }
            "majority_vote" => Ok(Self::MajorityVote),
            "remove_whitespace" => Ok(Self::RemoveWhitespace),
            "lowercase" => Ok(Self::Lowercase),
            "uppercase" => Ok(Self::Uppercase),
            "map" => Ok(Self::Map {
                mapping: options
                    .get("mapping_dict")
                    .and_then(Value::as_object)
                    .cloned()
                    .unwrap_or_default(),
                default: options.get("default_value").cloned().unwrap_or(Value::Null),
            }),
            _ => {
                let hint = "known are regex, multi_choice_regex, take_first, take_first_k, majority_vote, \
                            remove_whitespace, lowercase, uppercase and map";
                Err(fields.unsupported(&format!("{at}.function"), &json!(name), hint))
            }
        }
    }

    fn apply(&self, value: Value, doc: &Map<String, Value>) -> Value {
        let each = |change: &dyn Fn(&str) -> Value| match &value {
            Value::Array(items) => items
                .iter()
                .map(|item| change(item.as_str().unwrap_or_default()))
                .collect(),
            Value::String(text) => change(text),
            other => other.clone(),
        };
        match self {
            Self::Regex(filter) => {
                each(&|text| filter.find(text).unwrap_or_else(|| filter.fallback.clone()))
            }
            Self::MultiChoiceRegex(filter, options) => {
                each(&|text| options.find(filter, text, doc))
            }
            Self::TakeFirst => first(value),
            Self::TakeFirstK(k) => match value {
                Value::Array(items) => items.into_iter().take(*k).collect(),
                other => other,
            },
            Self::MajorityVote => match &value {
                Value::Array(items) => Value::Array(vec![majority(items)]),
                other => other.clone(),
            },
            Self::RemoveWhitespace => each(&|text| json!(strip(text))),
            Self::Lowercase => each(&|text| json!(text.to_lowercase())),
            Self::Uppercase => each(&|text| json!(text.to_uppercase())),
            Self::Map { mapping, default } => {
                each(&|text| mapping.get(text).unwrap_or(default).clone())
            }
        }
    }
}

/// The first of a list; of text its first character, as indexing in Python gives.
fn first(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().next().unwrap_or(Value::Null),
        Value::String(text) => json!(text.chars().take(1).collect::<String>()),
        other => other,
    }
}

/// The most frequent answer; of equally frequent ones the one that came first.
fn majority(items: &[Value]) -> Value {
    let times = |item: &Value| items.iter().filter(|other| *other == item).count();
    let mut best: Option<(&Value, usize)> = None;
    for item in items {
        let count = times(item);
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((item, count));
        }
    }
    best.map_or(Value::Null, |(item, _)| item.clone())
}

fn compile(fields: &Fields<'_>, at: &str, pattern: &str) -> Result<Regex> {
    python_regex(pattern).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().to_owned();
        fields.unsupported(&format!("{at}.regex_pattern"), &json!(pattern), &reason)
    })
}

impl RegexFilter {
    fn new(fields: &Fields<'_>, at: &str, options: &Map<String, Value>) -> Result<Self> {
        let pattern = options
            .get("regex_pattern")
            .and_then(Value::as_str)
            .unwrap_or(r"#### (\-?[0-9\.\,]+)");
        Ok(Self {
            regex: compile(fields, at, pattern)?,
            group_select: options
                .get("group_select")
                .and_then(Value::as_i64)
                .unwrap_or(0),
            fallback: options
                .get("fallback")
                .cloned()
                .unwrap_or_else(|| json!("[invalid]")),
        })
    }

    /// The selected match of `re.findall`: its only group, the first non-empty of several, or all of it.
    fn find(&self, text: &str) -> Option<Value> {
        let groups = self.regex.captures_len() - 1;
        let all: Vec<_> = self.regex.captures_iter(text).collect();
        let at = if self.group_select < 0 {
            all.len()
                .checked_sub(usize::try_from(self.group_select.unsigned_abs()).ok()?)?
        } else {
            usize::try_from(self.group_select).ok()?
        };
        let found = all.get(at)?;
        let part = |group: usize| found.get(group).map_or("", |part| part.as_str());
        let text = match groups {
            0 => part(0),
            1 => part(1),
            _ => (1..=groups).map(part).find(|part| !part.is_empty())?,
        };
        Some(json!(strip(text)))
    }
}

impl MultiChoice {
    fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for pattern in &self.ignored {
            text = pattern.replace_all(&text, "").into_owned();
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        if self.ignore_punctuation {
            // ASCII punctuation that Unicode files under symbols stays, as in the reference.
            text.retain(|c| !c.is_ascii_punctuation() || "$+<=>^`|~".contains(c));
        }
        text
    }

    /// The pattern, else the text of a choice, else a letter after a colon.
    fn find(&self, filter: &RegexFilter, text: &str, doc: &Map<String, Value>) -> Value {
        if let Some(found) = filter.find(text).filter(|found| found != "") {
            return found;
        }
        let choices: Vec<String> = doc
            .get("choices")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|choice| Some(self.clean(strip(choice.as_str()?))))
            .collect();
        let letter = |index: usize| {
            let offset = u8::try_from(index).unwrap_or(25).min(25);
            format!("({})", char::from(b'A' + offset))
        };
        let mut by_length: Vec<&String> =
            choices.iter().filter(|choice| !choice.is_empty()).collect();
        by_length.sort_by_key(|choice| std::cmp::Reverse(choice.chars().count()));
        let pattern = by_length
            .iter()
            .map(|choice| regex::escape(choice))
            .collect::<Vec<_>>()
            .join("|");
        let texts = Regex::new(&pattern).ok().filter(|_| !pattern.is_empty());
        let cleaned = self.clean(text);
        let select = |found: Vec<String>| {
            let at = if filter.group_select < 0 {
                found
                    .len()
                    .checked_sub(usize::try_from(filter.group_select.unsigned_abs()).ok()?)?
            } else {
                usize::try_from(filter.group_select).ok()?
            };
            found.get(at).cloned()
        };
        let found = texts.and_then(|texts| {
            let all = texts
                .find_iter(&cleaned)
                .map(|found| strip(found.as_str()).to_owned());
            let found = select(all.collect())?;
            Some(
                choices
                    .iter()
                    .rposition(|choice| *choice == found)
                    .map_or(found, letter),
            )
        });
        if let Some(found) = found.filter(|found| !found.is_empty()) {
            return json!(found);
        }
        let letters: String = (0..choices.len().min(26))
            .filter_map(|index| char::from_u32(u32::from(b'A') + u32::try_from(index).ok()?))
            .collect();
        let after_colon = Regex::new(&format!(r":[\s]*([{letters}])"))
            .ok()
            .filter(|_| !letters.is_empty());
        let found = after_colon.and_then(|pattern| {
            let all = pattern
                .captures_iter(text)
                .map(|found| format!("({})", &found[1]));
            select(all.collect())
        });
        found.map_or_else(|| filter.fallback.clone(), |found| json!(found))
    }
}
