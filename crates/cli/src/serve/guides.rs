//! Output that follows a schema, an expression or a grammar.

use std::sync::Arc;

use anyhow::Result;
use flametune_data::Tokenizer;
use flametune_serve::GuideMaker;

/// What makes constraints for a tokenizer and a model with `vocab_size` rows; `None` for a
/// tokenizer without a token that ends a text, and in a build without them.
#[cfg(feature = "guided")]
pub(super) fn maker(tokenizer: &Arc<Tokenizer>, vocab_size: usize) -> Result<Option<GuideMaker>> {
    use flametune_infer::{GuideFactory, TokenText};
    use flametune_serve::OutputFormat;

    let ends = &tokenizer.special().eos_ids;
    if ends.is_empty() {
        tracing::warn!("no guided output: no token ends a text");
        return Ok(None);
    }
    let rows = u32::try_from(vocab_size)?;
    let text = |id: u32| match tokenizer.token_bytes(id) {
        None => TokenText::Unused,
        Some(bytes) if tokenizer.is_special(id) || ends.contains(&id) => {
            TokenText::Special(String::from_utf8_lossy(&bytes).into_owned())
        }
        Some(bytes) => TokenText::Bytes(bytes),
    };
    let texts: Vec<TokenText> = (0..rows).map(text).collect();
    let factory = GuideFactory::new(&texts, ends)?;
    Ok(Some(Arc::new(move |format: &OutputFormat| {
        let guide = match format {
            OutputFormat::JsonObject => factory.json_object(),
            OutputFormat::JsonSchema(schema) => factory.json_schema(&schema.to_string()),
            OutputFormat::Regex(pattern) => factory.regex(pattern),
            OutputFormat::Grammar(lark) => factory.grammar(lark),
            OutputFormat::Choice(choices) => factory.choice(choices),
        };
        guide.map_err(|error| error.to_string())
    })))
}

/// Nothing, in a build without them.
#[cfg(not(feature = "guided"))]
pub(super) fn maker(_: &Arc<Tokenizer>, _: usize) -> Result<Option<GuideMaker>> {
    Ok(None)
}
