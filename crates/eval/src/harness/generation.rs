//! How a task wants text generated.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::error::Result;

/// Most tokens of an answer unless a task says otherwise.
const MAX_GEN_TOKS: usize = 256;

/// Options of one generated answer.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct GenerationOptions {
    /// Text that ends the answer and is no part of it.
    pub until: Vec<String>,
    /// Most tokens.
    pub max_gen_toks: usize,
    /// 0 for the most likely token each time.
    pub temperature: f64,
    /// Keeps the fewest tokens that hold this probability together.
    pub top_p: f64,
    /// Keeps this many tokens; 0 for all.
    pub top_k: usize,
    /// Keeps tokens at least so many times as likely as the most likely one.
    pub min_p: f64,
    /// Divides scores of tokens already seen.
    pub repetition_penalty: f64,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self {
            until: Vec::new(),
            max_gen_toks: MAX_GEN_TOKS,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

impl GenerationOptions {
    /// Reads `generation_kwargs`; without `until` an answer ends at the delimiter of examples.
    pub(crate) fn new(fields: &mut Fields<'_>, fewshot_delimiter: &str) -> Result<Self> {
        let kwargs = fields.mapping("generation_kwargs")?;
        let mut options = Self {
            until: vec![fewshot_delimiter.to_owned()],
            ..Self::default()
        };
        let sample = kwargs.get("do_sample").and_then(Value::as_bool);
        options.max_gen_toks = max_tokens(fields, &kwargs)?;
        for (key, value) in &kwargs {
            let field = format!("generation_kwargs.{key}");
            let number = || {
                let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
                number.ok_or_else(|| fields.invalid(&field, "a number", value))
            };
            match key.as_str() {
                "until" => {
                    options.until = until(value)
                        .ok_or_else(|| fields.invalid(&field, "text or a list of text", value))?;
                }
                "do_sample" if value.is_boolean() => {}
                "do_sample" => return Err(fields.invalid(&field, "true or false", value)),
                "temperature" => options.temperature = number()?,
                "top_p" => options.top_p = number()?,
                "top_k" => {
                    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
                    options.top_k =
                        count.ok_or_else(|| fields.invalid(&field, "a whole number", value))?;
                }
                "min_p" => options.min_p = number()?,
                "repetition_penalty" => options.repetition_penalty = number()?,
                "max_gen_toks" | "max_new_tokens" | "max_tokens" | "max_completion_tokens" => {}
                _ => {
                    let hint = "known are until, do_sample, temperature, top_p, top_k, min_p, \
                                repetition_penalty and max_gen_toks";
                    return Err(fields.unsupported(&field, value, hint));
                }
            }
        }
        match sample {
            Some(false) => options.temperature = 0.0,
            Some(true) if !kwargs.contains_key("temperature") => options.temperature = 1.0,
            _ => {}
        }
        Ok(options)
    }

    /// Whether the same prompt always gives the same answer.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }
}

fn until(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => many
            .iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect(),
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}

/// The first of the names that is given, in the reference's order.
fn max_tokens(fields: &Fields<'_>, kwargs: &Map<String, Value>) -> Result<usize> {
    let names = [
        "max_gen_toks",
        "max_new_tokens",
        "max_tokens",
        "max_completion_tokens",
    ];
    let given = names
        .iter()
        .find_map(|name| Some((*name, kwargs.get(*name)?)));
    let Some((name, value)) = given else {
        return Ok(MAX_GEN_TOKS);
    };
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
    count.filter(|&count| count > 0).ok_or_else(|| {
        fields.invalid(
            &format!("generation_kwargs.{name}"),
            "a whole number above 0",
            value,
        )
    })
}
