//! Reading `tokenizer.json`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::Tokenizer as Inner;

use super::guarded;
use crate::error::{Error, Result};

/// Parses the file after checking what the `tokenizers` library takes on trust.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Inner> {
    let probe: Probe<'_> =
        serde_json::from_slice(bytes).map_err(|error| Error::json(file, &error))?;
    check_post_processor(file, &probe.post_processor)?;
    check_merges(&probe.model)?;
    let parsed = guarded(|| Ok(serde_json::from_slice::<Inner>(bytes)));
    let unusable = |got: String| Error::InvalidField {
        file: file.to_owned(),
        field: "tokenizer".to_owned(),
        expected: "one that the tokenizers library can build",
        got,
    };
    parsed
        .map_err(unusable)?
        .map_err(|error| Error::json(file, &error))
}

#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow)]
    model: ModelProbe<'a>,
    #[serde(default)]
    post_processor: Value,
}

/// The parts of a byte-pair model that its merges are checked against; other models have other fields.
#[derive(Deserialize)]
struct ModelProbe<'a> {
    #[serde(borrow, default)]
    vocab: Option<&'a RawValue>,
    #[serde(borrow, default)]
    merges: Option<&'a RawValue>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge<'a> {
    #[serde(borrow)]
    Pair((Cow<'a, str>, Cow<'a, str>)),
    #[serde(borrow)]
    Line(Cow<'a, str>),
}

/// Makes sure that each merge yields a token, which the library presumes when it joins the halves in a buffer.
fn check_merges(model: &ModelProbe<'_>) -> Result<()> {
    let (Some(vocab), Some(merges)) = (model.vocab, model.merges) else {
        return Ok(());
    };
    // Anything of another type is for the library to name.
    let Ok(vocab) = serde_json::from_str::<HashMap<Cow<'_, str>, u64>>(vocab.get()) else {
        return Ok(());
    };
    let Ok(merges) = serde_json::from_str::<Vec<Merge<'_>>>(merges.get()) else {
        return Ok(());
    };
    let tokens: HashSet<&str> = vocab.keys().map(AsRef::as_ref).collect();
    let prefix = model
        .continuing_subword_prefix
        .as_deref()
        .unwrap_or_default();
    for (index, merge) in merges.iter().enumerate() {
        let (left, right) = match merge {
            Merge::Pair((left, right)) => (left.as_ref(), right.as_ref()),
            // Headers and malformed lines are for the library to skip or name.
            Merge::Line(line) => match line.split_once(' ') {
                Some(halves) if !line.starts_with("#version") => halves,
                _ => continue,
            },
        };
        let invalid = |reason| Error::InvalidMerge {
            index,
            merge: format!("{left} {right}"),
            reason,
        };
        let Some(stem) = right.strip_prefix(prefix) else {
            return Err(invalid(
                "its right half lacks the continuing_subword_prefix",
            ));
        };
        if ![left, right].iter().all(|half| tokens.contains(half)) {
            return Err(invalid("one of its halves is not in the vocabulary"));
        }
        if !tokens.contains(format!("{left}{stem}").as_str()) {
            return Err(invalid("its result is not in the vocabulary"));
        }
    }
    Ok(())
}

/// Makes sure that the tokens which a template adds are defined beside it, which the library presumes.
fn check_post_processor(file: &str, processor: &Value) -> Result<()> {
    for inner in processor["processors"].as_array().into_iter().flatten() {
        check_post_processor(file, inner)?;
    }
    for template in ["single", "pair"] {
        for piece in processor[template].as_array().into_iter().flatten() {
            let Some(name) = piece["SpecialToken"]["id"].as_str() else {
                continue;
            };
            if processor["special_tokens"].get(name).is_none() {
                return Err(Error::InvalidField {
                    file: file.to_owned(),
                    field: format!("post_processor.{template}"),
                    expected: "made of tokens from special_tokens",
                    got: format!("{name:?}"),
                });
            }
        }
    }
    Ok(())
}
