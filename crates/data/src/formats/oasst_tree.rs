//! OpenAssistant trees: a `prompt` with nested `replies`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ConvertOptions;
use crate::error::Result;
use crate::example::Example;
use crate::message::{Message, json_kind};
use crate::readers::Record;

/// Most conversations that one tree may give.
const MAX_PATHS: usize = 1024;

/// Which conversations are read from a tree of replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TreePaths {
    /// One: at each message the reply of the best rank, the lowest; the first of equals, and those without a rank last.
    #[default]
    Best,
    /// One for each message of the assistant that no further message of the assistant follows.
    All,
}

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    row.get("prompt")?
        .get("replies")?
        .is_array()
        .then_some("a prompt with nested replies")
}

pub(super) fn convert(record: &Record, options: &ConvertOptions) -> Result<Vec<Example>> {
    let mut tree = Tree::default();
    // Depth first, children in order; parents come before their replies.
    let mut open = vec![(None, record.value("prompt")?)];
    while let Some((parent, value)) = open.pop() {
        let Value::Object(fields) = value else {
            return Err(record.invalid("a message in the tree", json_kind(value)));
        };
        let Some(index) = tree.push(record, parent, fields)? else {
            continue;
        };
        if let Some(replies) = fields.get("replies").and_then(Value::as_array) {
            open.extend(replies.iter().rev().map(|reply| (Some(index), reply)));
        }
    }
    tree.conversations(record, options.tree)
}

/// Messages of one tree, parents before replies.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    parent: Option<usize>,
    rank: Option<i64>,
    message: Message,
    replies: Vec<usize>,
}

impl Tree {
    /// Adds a message and returns its index; deleted messages, and those that reviewers refused, are left out.
    pub(super) fn push(
        &mut self,
        record: &Record,
        parent: Option<usize>,
        fields: &Map<String, Value>,
    ) -> Result<Option<usize>> {
        let deleted = fields.get("deleted") == Some(&Value::Bool(true));
        let refused = fields.get("review_result") == Some(&Value::Bool(false));
        if deleted || refused {
            return Ok(None);
        }
        let text = |key: &str| match fields.get(key) {
            Some(Value::String(text)) => Ok(text.as_str()),
            other => Err(record.invalid(
                format!("text in {key:?} of each message"),
                other.map_or("nothing", json_kind),
            )),
        };
        let role = match text("role")? {
            "prompter" | "user" => "user",
            "assistant" => "assistant",
            other => {
                return Err(record.invalid("the role prompter or assistant", format!("{other:?}")));
            }
        };
        let index = self.nodes.len();
        self.nodes.push(Node {
            parent,
            rank: fields.get("rank").and_then(Value::as_f64).map(whole),
            message: Message::new(role, text("text")?),
            replies: Vec::new(),
        });
        if let Some(parent) = parent {
            self.nodes[parent].replies.push(index);
        }
        Ok(Some(index))
    }

    /// The conversations of the tree, each ending with the assistant.
    pub(super) fn conversations(&self, record: &Record, paths: TreePaths) -> Result<Vec<Example>> {
        let ends = match paths {
            TreePaths::Best => self.best().into_iter().collect(),
            TreePaths::All => self.answers(),
        };
        if ends.is_empty() {
            return Err(record.invalid("a tree with an answer of the assistant", "none"));
        }
        if ends.len() > MAX_PATHS {
            return Err(record.invalid(
                format!("at most {MAX_PATHS} conversations in a tree"),
                ends.len().to_string(),
            ));
        }
        Ok(ends
            .into_iter()
            .map(|end| Example::Chat {
                messages: self.path(end),
                tools: None,
            })
            .collect())
    }

    /// The last answer on the path of the best ranks.
    fn best(&self) -> Option<usize> {
        let mut current = (!self.nodes.is_empty()).then_some(0);
        let mut answer = None;
        while let Some(index) = current {
            if self.nodes[index].message.role == "assistant" {
                answer = Some(index);
            }
            current = self.nodes[index]
                .replies
                .iter()
                .copied()
                .min_by_key(|&reply| self.nodes[reply].rank.unwrap_or(i64::MAX));
        }
        answer
    }

    /// Answers that no further answer follows.
    fn answers(&self) -> Vec<usize> {
        let mut followed = vec![false; self.nodes.len()];
        for index in (0..self.nodes.len()).rev() {
            let node = &self.nodes[index];
            if let Some(parent) = node.parent
                && (followed[index] || node.message.role == "assistant")
            {
                followed[parent] = true;
            }
        }
        (0..self.nodes.len())
            .filter(|&index| self.nodes[index].message.role == "assistant" && !followed[index])
            .collect()
    }

    fn path(&self, end: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut current = Some(end);
        while let Some(index) = current {
            messages.push(self.nodes[index].message.clone());
            current = self.nodes[index].parent;
        }
        messages.reverse();
        messages
    }
}

/// Ranks are whole numbers, which columnar files may hold as floats.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a cast of floats saturates, and only the order counts"
)]
fn whole(rank: f64) -> i64 {
    rank as i64
}
