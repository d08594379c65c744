//! The text side of a model: its tokenizer and its chat template.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use flametune_data::{ChatInput, ChatTemplate, CivilTime, GgufVocab, Message, Tokenizer};
use flametune_lm::Checkpoint;

/// The tokenizer that belongs to a checkpoint.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    let tokenizer = match checkpoint.gguf() {
        None => {
            let folder = checkpoint
                .config()
                .path()
                .parent()
                .unwrap_or(Path::new("."));
            Tokenizer::from_folder(folder)?
        }
        Some(gguf) => {
            let Some(vocab) = gguf.vocabulary()? else {
                bail!(
                    "{}: the file carries no tokenizer",
                    checkpoint.config().path().display()
                );
            };
            Tokenizer::from_gguf(&GgufVocab {
                architecture: vocab.architecture,
                model: vocab.model,
                pre: vocab.pre,
                tokens: vocab.tokens,
                scores: vocab.scores,
                token_types: vocab.token_types,
                merges: vocab.merges,
                bos_token_id: vocab.bos_token_id,
                eos_token_id: vocab.eos_token_id,
                eot_token_id: vocab.eot_token_id,
                unknown_token_id: vocab.unknown_token_id,
                padding_token_id: vocab.padding_token_id,
                add_bos_token: vocab.add_bos_token,
                add_eos_token: vocab.add_eos_token,
                add_space_prefix: vocab.add_space_prefix,
                chat_template: vocab.chat_template,
            })?
        }
    };
    Ok(tokenizer)
}

/// The chat template to use: the one named or in the file named, else the model's own.
pub(crate) fn chat_template(tokenizer: &Tokenizer, wanted: Option<&str>) -> Result<ChatTemplate> {
    match (wanted, tokenizer.chat_template()) {
        (Some(wanted), _) if Path::new(wanted).is_file() => {
            let source = std::fs::read_to_string(wanted)
                .with_context(|| format!("cannot read the chat template {wanted}"))?;
            Ok(ChatTemplate::new(wanted, source)?)
        }
        (Some(wanted), _) => Ok(ChatTemplate::builtin(wanted)?),
        (None, Some(source)) => Ok(ChatTemplate::new("chat_template", source)?),
        (None, None) => bail!(
            "the model has no chat template; name one with --template ({})",
            flametune_data::BUILTIN_TEMPLATES.join(", ")
        ),
    }
}

/// Renders a conversation, ready for the assistant's next turn, and encodes it.
pub(crate) fn encode_chat(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    messages: &[Message],
) -> Result<Vec<u32>> {
    let mut input = ChatInput::new(messages)
        .generation_prompt(true)
        .special_tokens(tokenizer.special());
    input.now = now();
    let text = template.render(&input)?;
    // The template writes the special tokens itself.
    let ids = tokenizer.encode(&text, false)?;
    if tokenizer.has_double_bos(&ids) {
        bail!(
            "the chat template {} begins with two BOS tokens",
            template.name()
        );
    }
    Ok(ids)
}

fn now() -> Option<CivilTime> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(CivilTime::from_unix(i64::try_from(since.as_secs()).ok()?))
}
