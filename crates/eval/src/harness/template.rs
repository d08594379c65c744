//! Jinja templates of task files, with Python's way of writing values.

use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use crate::python::{python_regex, python_replacement, python_str};

/// Steps that rendering one document may take.
const FUEL: u64 = 2_000_000;

/// Why a template could not be rendered, and in which of its lines.
pub(crate) struct TemplateError {
    pub(crate) reason: String,
    pub(crate) line: Option<usize>,
}

/// Renders a template with the columns of a document.
///
/// As in the reference: a name that is not there is an error, a last newline is kept, and `regex_replace` is a filter.
pub(crate) fn render(template: &str, columns: &Value) -> Result<String, TemplateError> {
    static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);
    ENVIRONMENT
        .render_str(template, columns.clone())
        .map_err(|error| TemplateError {
            reason: reason(&error),
            line: error.line(),
        })
}

fn reason(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, _, value| {
        if value.is_undefined() {
            return Err(Error::from(ErrorKind::UndefinedError));
        }
        let written = match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python_value(value)?),
        };
        written.map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
    environment.add_filter("regex_replace", regex_replace);
    environment
}

fn python_value(value: &Value) -> Result<String, Error> {
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
    Ok(python_str(&json))
}

/// Python's methods, with `list.index` besides those of minijinja-contrib.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if value.kind() == ValueKind::Seq && name == "index" {
        let wanted = args
            .first()
            .ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
        let found = value.try_iter()?.position(|item| item == *wanted);
        return found.map(Value::from).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidOperation,
                format!("{wanted} is not in list"),
            )
        });
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn regex_replace(
    text: &str,
    pattern: &str,
    replacement: &str,
    count: Option<usize>,
) -> Result<String, Error> {
    let regex = python_regex(pattern)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
    let replacement = python_replacement(replacement);
    Ok(regex
        .replacen(text, count.unwrap_or(0), replacement.as_str())
        .into_owned())
}
