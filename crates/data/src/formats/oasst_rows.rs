//! OpenAssistant messages: one row each, with `message_id` and `parent_id`, the rows of a tree side by side.

use std::collections::HashMap;
use std::iter::Peekable;

use serde_json::{Map, Value};

use super::ConvertOptions;
use super::oasst_tree::Tree;
use crate::error::{Error, Result};
use crate::example::Example;
use crate::readers::{Record, Records};

/// The key under which a gathered record holds the rows of its tree.
const ROWS: &str = "rows of a tree";

/// Most messages of one tree.
const MAX_ROWS: usize = 4096;

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    ["message_id", "parent_id", "text", "role"]
        .iter()
        .all(|key| row.contains_key(*key))
        .then_some("message_id, parent_id, text and role")
}

pub(super) fn convert(record: &Record, options: &ConvertOptions) -> Result<Vec<Example>> {
    let mut tree = Tree::default();
    let mut indices: HashMap<&str, Option<usize>> = HashMap::new();
    let rows = record.value(ROWS)?.as_array();
    for row in rows.into_iter().flatten().filter_map(Value::as_object) {
        let parent = match row.get("parent_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => match indices.get(id.as_str()) {
                // What answers a message that was left out is left out too.
                Some(None) => {
                    indices.insert(id_of(row), None);
                    continue;
                }
                Some(index) => *index,
                None => {
                    return Err(record.invalid(
                        "the rows of a tree side by side, each after its parent",
                        format!("the unknown parent_id {id:?}"),
                    ));
                }
            },
            Some(other) => return Err(record.invalid("text in \"parent_id\"", other.to_string())),
        };
        indices.insert(id_of(row), tree.push(record, parent, row)?);
    }
    tree.conversations(record, options.tree)
}

fn id_of(row: &Map<String, Value>) -> &str {
    row.get("message_id")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Gathers the rows of each tree into one record: a row without a parent begins the next tree.
pub(super) fn gather(records: Records) -> Records {
    Box::new(Gather {
        records: records.peekable(),
    })
}

struct Gather {
    records: Peekable<Records>,
}

impl Iterator for Gather {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.records.next()? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let (at, left_out) = (first.at.clone(), first.left_out.clone());
        let mut rows = vec![Value::Object(first.row)];
        while let Some(Ok(next)) = self.records.peek() {
            if next.row.get("parent_id").is_none_or(Value::is_null) {
                break;
            }
            if let Some(Ok(next)) = self.records.next()
                && rows.len() <= MAX_ROWS
            {
                rows.push(Value::Object(next.row));
            }
        }
        if rows.len() > MAX_ROWS {
            return Some(Err(Error::InvalidRecord {
                at,
                expected: format!("at most {MAX_ROWS} messages in a tree"),
                got: "more".into(),
            }));
        }
        let mut row = Map::new();
        row.insert(ROWS.into(), Value::Array(rows));
        Some(Ok(Record { row, at, left_out }))
    }
}
