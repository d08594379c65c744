//! The Jinja environment that chat templates expect: Hugging Face's settings, functions and filters.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, Value};

use super::clock::CivilTime;
use super::lexer::FILTER;
use super::tojson::tojson;
use crate::error::Error;

/// What `raise_exception` raised, so that it can be told from a failure of the template.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// An environment without templates.
pub(super) fn environment() -> Result<Environment<'static>, JinjaError> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method);
    // What prints values with an indentation, or all variables, costs more than its steps.
    environment.remove_filter("pprint");
    environment.remove_global("debug");
    environment.add_filter("tojson", tojson);
    environment.add_filter(FILTER, generation);
    environment.add_function("raise_exception", raise_exception);
    Ok(environment)
}

/// `strftime_now` for a given time; templates without it see the function as undefined.
pub(super) fn strftime_now(now: CivilTime) -> Value {
    Value::from_function(move |format: &str| {
        now.strftime(format)
            .map_err(|reason| JinjaError::new(ErrorKind::InvalidOperation, reason))
    })
}

/// The filter behind `{% generation %}`: puts the marks of this rendering, if any, around the assistant's text.
fn generation(text: &Value, mark: &Value) -> String {
    match mark.as_str() {
        Some(mark) => format!("{mark}<{text}{mark}>"),
        None => text.to_string(),
    }
}

fn raise_exception(message: &Value) -> Result<Value, JinjaError> {
    let message = message.to_string();
    Err(JinjaError::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// Methods of Python's types, and the few string methods that the compatibility layer lacks.
fn unknown_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, JinjaError> {
    if value.kind() == ValueKind::String
        && let (Some(text), [affix]) = (value.as_str(), args)
        && let Some(affix) = affix.as_str()
    {
        match method {
            "removeprefix" => return Ok(Value::from(text.strip_prefix(affix).unwrap_or(text))),
            "removesuffix" => return Ok(Value::from(text.strip_suffix(affix).unwrap_or(text))),
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Turns an error of the engine into one of this crate.
pub(super) fn typed_error(template: &str, fuel: u64, error: &JinjaError) -> Error {
    let template = template.to_owned();
    let line = error.line().unwrap_or(0);
    let raised =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<Raised>());
    if let Some(Raised(message)) = raised {
        return Error::TemplateRaised {
            template,
            line,
            message: message.clone(),
        };
    }
    let reason = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.kind() {
        ErrorKind::OutOfFuel => Error::TemplateFuel {
            template,
            line,
            fuel,
        },
        ErrorKind::SyntaxError | ErrorKind::BadEscape | ErrorKind::InvalidDelimiter => {
            Error::TemplateSyntax {
                template,
                line,
                reason,
            }
        }
        _ => Error::TemplateRender {
            template,
            line,
            reason,
        },
    }
}
