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

/// The time that templates are told.
pub(crate) fn now() -> Option<CivilTime> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(CivilTime::from_unix(i64::try_from(since.as_secs()).ok()?))
}

#[cfg(test)]
mod tests {
    use flametune_testkit::{asset_path, fixture_json};

    use super::*;

    #[test]
    fn the_header_of_smollm2_gives_the_ids_of_its_own_tokenizer() {
        let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
        let Some(path) = asset_path("smollm2-135m-instruct", name) else {
            return;
        };
        let tokenizer = tokenizer(&Checkpoint::open(path).unwrap()).unwrap();
        let golden = fixture_json("tokenizers/smollm2_real.golden.json");
        let rows = golden.as_array().unwrap();
        assert_eq!(rows.len(), 44);
        for row in rows {
            let text = row["text"].as_str().unwrap();
            let ids: Vec<u32> = row["ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
                .collect();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
            assert_eq!(
                tokenizer.decode(&ids, true).unwrap(),
                row["decoded"].as_str().unwrap()
            );
        }
        assert!(tokenizer.check_against(49_152).is_ok());
        assert_eq!(tokenizer.special().eos_ids, [2, 0]);
    }

    #[test]
    fn a_chat_is_rendered_as_transformers_renders_it() {
        let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
        let Some(path) = asset_path("smollm2-135m-instruct", name) else {
            return;
        };
        let tokenizer = tokenizer(&Checkpoint::open(path).unwrap()).unwrap();
        let template = chat_template(&tokenizer, None).unwrap();
        let golden = fixture_json("smollm2/greedy.json");
        let chats = golden
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["messages"].is_array());
        let mut compared = 0;
        for row in chats {
            let messages = flametune_data::parse_messages(&row["messages"].to_string()).unwrap();
            let ids = encode_chat(&template, &tokenizer, &messages).unwrap();
            let expected: Vec<u64> = row["input_ids"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|id| id.as_u64())
                .collect();
            assert!(ids.iter().map(|&id| u64::from(id)).eq(expected), "{row}");
            compared += 1;
        }
        assert_eq!(compared, 2);
    }
}
