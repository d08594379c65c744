//! Plain text in the column `text`.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::example::Example;
use crate::readers::Record;

pub(super) fn recognise(row: &Map<String, Value>) -> Option<&'static str> {
    row.contains_key("text").then_some("text")
}

pub(super) fn convert(record: &Record) -> Result<Vec<Example>> {
    Ok(vec![Example::Text(record.text("text")?.to_owned())])
}
