//! The `tojson` filter of Hugging Face templates: Python's `json.dumps`.
//!
//! Jinja's own filter escapes HTML and separates without spaces; the templates expect neither.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Nesting beyond this is refused, as by JSON parsers.
const MAX_DEPTH: usize = 128;

/// `tojson(value, ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature of a minijinja filter"
)]
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent.map_or_else(|| kwargs.get("indent"), |indent| Ok(Some(indent)))? {
        Some(value) => indentation(&value)?,
        None => None,
    };
    let (item, key) = match kwargs
        .get::<Option<Value>>("separators")?
        .filter(|value| !value.is_none())
    {
        Some(pair) => {
            let part = |index: usize| Ok::<_, Error>(pair.get_item_by_index(index)?.to_string());
            (part(0)?, part(1)?)
        }
        // json.dumps drops the space after a comma that ends a line.
        None => (
            if indent.is_some() { "," } else { ", " }.to_owned(),
            ": ".to_owned(),
        ),
    };
    let flag = |given: Option<bool>, name: &str| match given {
        Some(given) => Ok(given),
        None => Ok::<_, Error>(kwargs.get::<Option<bool>>(name)?.unwrap_or(false)),
    };
    let writer = Writer {
        ensure_ascii: flag(ensure_ascii, "ensure_ascii")?,
        sort_keys: flag(None, "sort_keys")?,
        indent,
        item,
        key,
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    writer.write(state, &mut out, value, 0)?;
    Ok(Value::from(out))
}

/// `indent` as text: a number of spaces, or the text itself.
fn indentation(value: &Value) -> Result<Option<String>, Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => Ok(None),
        ValueKind::String => Ok(Some(value.to_string())),
        _ => {
            let spaces = usize::try_from(value.clone())
                .ok()
                .filter(|&spaces| spaces <= 64);
            let spaces =
                spaces.ok_or_else(|| invalid(format!("tojson cannot indent by {value}")))?;
            Ok(Some(" ".repeat(spaces)))
        }
    }
}

struct Writer {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Writer {
    fn write(
        &self,
        state: &State<'_, '_>,
        out: &mut String,
        value: &Value,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!(
                "tojson refuses values nested deeper than {MAX_DEPTH} levels"
            )));
        }
        state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => {
                let _ = write!(out, "{value}");
            }
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                state.consume_fuel(u64::try_from(text.len() / 64).unwrap_or(u64::MAX))?;
                self.string(out, text);
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.block(out, '[', ']', items.len(), depth, |out, index| {
                    self.write(state, out, &items[index], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.block(out, '{', '}', keys.len(), depth, |out, index| {
                    self.string(out, &key_text(&keys[index]));
                    out.push_str(&self.key);
                    self.write(state, out, &value.get_item(&keys[index])?, depth + 1)
                })?;
            }
            kind => return Err(invalid(format!("tojson cannot write {kind}"))),
        }
        Ok(())
    }

    /// Writes `length` entries between brackets, each on its own line when there is an indentation.
    fn block(
        &self,
        out: &mut String,
        open: char,
        close: char,
        length: usize,
        depth: usize,
        mut entry: impl FnMut(&mut String, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for index in 0..length {
            if index > 0 {
                out.push_str(&self.item);
            }
            self.new_line(out, depth + 1);
            entry(out, index)?;
        }
        if length > 0 {
            self.new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Keys that are not strings are written as their JSON text, like Python does.
fn key_text(key: &Value) -> String {
    match key.kind() {
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::None => "null".to_owned(),
        ValueKind::Number if !key.is_integer() => number(key),
        _ => key.to_string(),
    }
}

/// A float as Python's `repr` prints it: the shortest digits that round-trip, an exponent from 1e16 on and below 1e-4.
fn number(value: &Value) -> String {
    let Ok(float) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if float.is_nan() {
        return "NaN".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let magnitude = float.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent
            .strip_prefix('-')
            .map_or(('+', exponent), |rest| ('-', rest));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let mut text = float.to_string();
    if !text.contains('.') {
        text.push_str(".0");
    }
    text
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use minijinja::{Environment, context};
    use serde_json::json;

    use super::*;

    fn dump(arguments: &str, value: &serde_json::Value) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", tojson);
        environment
            .render_str(
                &format!("{{{{ x | tojson{arguments} }}}}"),
                context! { x => Value::from(Serde(value)) },
            )
            .unwrap()
    }

    #[test]
    fn output_equals_json_dumps() {
        let value = json!({"b": [1, 2.0, -0.5, true, null], "a": "é <\"&'> \u{1}\n\t\u{7f}", "e": [], "o": {}});
        assert_eq!(
            dump("", &value),
            "{\"b\": [1, 2.0, -0.5, true, null], \"a\": \"é <\\\"&'> \\u0001\\n\\t\u{7f}\", \"e\": [], \"o\": {}}"
        );
        assert_eq!(
            dump("(indent=2)", &json!([{"a": 1}, []])),
            "[\n  {\n    \"a\": 1\n  },\n  []\n]"
        );
        assert_eq!(dump("(indent=0)", &json!([1])), "[\n1\n]");
        assert_eq!(
            dump("(ensure_ascii=true)", &json!("é😀")),
            r#""\u00e9\ud83d\ude00""#
        );
        assert_eq!(
            dump("(sort_keys=true)", &json!({"b": 1, "a": 2})),
            r#"{"a": 2, "b": 1}"#
        );
        assert_eq!(
            dump("(separators=(',', ':'))", &json!({"b": [1, 2]})),
            r#"{"b":[1,2]}"#
        );
    }

    #[test]
    fn floats_print_like_python() {
        for (float, expected) in [
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-5, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (0.0001, "0.0001"),
            (123_456_789.125, "123456789.125"),
            (0.0, "0.0"),
            (9_007_199_254_740_993.0, "9007199254740992.0"),
        ] {
            assert_eq!(dump("", &json!(float)), expected);
        }
    }
}
