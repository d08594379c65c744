//! What an example says, apart from how it is written down: for hashes, comparison and filters.

use xxhash_rust::xxh3::Xxh3;

use crate::example::Example;
use crate::message::{Content, Message};

/// Which part of an example's text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything.
    All,
    /// What is given: up to the first answer.
    Prompt,
    /// What is learned: the assistant's turns, the completion, the text.
    Answer,
}

/// The texts of a part of an example, each with who says it, in order.
pub(crate) fn texts(example: &Example, part: Part) -> Vec<(&str, String)> {
    let mut texts = Vec::new();
    let given = part != Part::Answer;
    let learned = part != Part::Prompt;
    match example {
        Example::Chat { messages, .. } => {
            let first = messages
                .iter()
                .position(|message| message.role == "assistant")
                .unwrap_or(messages.len());
            for (index, message) in messages.iter().enumerate() {
                let wanted = match part {
                    Part::All => true,
                    Part::Prompt => index < first,
                    Part::Answer => message.role == "assistant",
                };
                if wanted {
                    texts.push((message.role.as_str(), said(message)));
                }
            }
        }
        Example::Completion { prompt, completion } => {
            texts.extend(given.then(|| ("prompt", prompt.clone())));
            texts.extend(learned.then(|| ("completion", completion.clone())));
        }
        Example::Text(text) => texts.push(("text", text.clone())),
        Example::Preference {
            prompt,
            chosen,
            rejected,
            ..
        } => {
            let turns =
                |messages: &'_ [Message]| -> Vec<String> { messages.iter().map(said).collect() };
            texts.extend(
                turns(prompt)
                    .into_iter()
                    .filter(|_| given)
                    .map(|text| ("prompt", text)),
            );
            texts.extend(
                turns(chosen)
                    .into_iter()
                    .filter(|_| learned)
                    .map(|text| ("chosen", text)),
            );
            texts.extend(
                turns(rejected)
                    .into_iter()
                    .filter(|_| learned)
                    .map(|text| ("rejected", text)),
            );
        }
        Example::Judged {
            prompt,
            completion,
            label,
        } => {
            let answer = if *label { "wanted" } else { "unwanted" };
            texts.extend(
                prompt
                    .iter()
                    .filter(|_| given)
                    .map(|message| ("prompt", said(message))),
            );
            texts.extend(
                completion
                    .iter()
                    .filter(|_| learned)
                    .map(|message| (answer, said(message))),
            );
        }
        Example::Stepwise {
            prompt,
            steps,
            labels,
        } => {
            texts.extend(
                prompt
                    .iter()
                    .filter(|_| given)
                    .map(|message| ("prompt", said(message))),
            );
            let name = |right: &bool| if *right { "right" } else { "wrong" };
            let each = steps.iter().zip(labels).filter(|_| learned);
            texts.extend(each.map(|(step, label)| (name(label), step.clone())));
        }
        Example::Classified { text, label } => {
            texts.push(("text", text.clone()));
            texts.extend(learned.then(|| ("label", label.to_string())));
        }
    }
    texts
}

/// The texts of a part as one, a line break between them.
pub(crate) fn joined(example: &Example, part: Part) -> String {
    let texts: Vec<String> = texts(example, part)
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    texts.join("\n")
}

/// A 128-bit hash of a part, over lower-case text with every run of white space as one space.
///
/// Stable: it depends on who says what, and on nothing else.
pub(crate) fn hash(example: &Example, part: Part) -> u128 {
    let mut state = Xxh3::new();
    for (role, text) in texts(example, part) {
        state.update(role.as_bytes());
        state.update(&[0xff]);
        state.update(normalized(&text).as_bytes());
        state.update(&[0xfe]);
    }
    state.digest128()
}

/// Lower case, every run of white space as one space, none at the ends.
pub(crate) fn normalized(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !result.is_empty() {
            result.push(' ');
        }
        if word.is_ascii() {
            let start = result.len();
            result.push_str(word);
            result[start..].make_ascii_lowercase();
        } else {
            result.extend(word.chars().flat_map(char::to_lowercase));
        }
    }
    result
}

/// The words of a text, lower case, without punctuation: runs of letters and digits.
///
/// Characters of scripts that are written without spaces are a word each.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        let alone = !c.is_ascii() && is_unspaced(c);
        if (alone || !c.is_alphanumeric()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if alone {
            words.push(c.to_string());
        } else if c.is_ascii_alphanumeric() {
            word.push(c.to_ascii_lowercase());
        } else if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Whether a character belongs to a script that puts no spaces between words: Thai, Lao, Myanmar, Khmer, the kana and
/// the Chinese characters.
fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x323AF)
        && c.is_alphanumeric()
}

/// The text of a message, its tool calls included.
fn said(message: &Message) -> String {
    let mut text = match &message.content {
        Content::Absent | Content::Null => String::new(),
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => parts
            .iter()
            .map(|part| match part.get("text").or(part.get("value")) {
                Some(serde_json::Value::String(text)) => text.clone(),
                _ => part.to_string(),
            })
            .collect::<Vec<_>>()
            .join("\n"),
    };
    for key in ["input", "reasoning_content"] {
        if let Some(serde_json::Value::String(more)) = message.extra.get(key) {
            text.push('\n');
            text.push_str(more);
        }
    }
    for call in message.tool_calls.iter().flatten() {
        text.push('\n');
        text.push_str(&call.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_and_case_make_no_difference_but_roles_and_borders_do() {
        let chat = |turns: &[(&str, &str)]| Example::Chat {
            messages: turns
                .iter()
                .map(|(role, text)| Message::new(*role, *text))
                .collect(),
            tools: None,
        };
        let hash = |example: &Example| hash(example, Part::All);
        let base = hash(&chat(&[("user", "A  b"), ("assistant", "c")]));
        assert_eq!(base, hash(&chat(&[("user", "a B\n"), ("assistant", "C")])));
        assert_ne!(base, hash(&chat(&[("user", "a b c"), ("assistant", "")])));
        assert_ne!(base, hash(&chat(&[("assistant", "a b"), ("user", "c")])));
        assert_ne!(base, hash(&chat(&[("user", "a"), ("assistant", "b c")])));
    }

    #[test]
    fn words_know_punctuation_and_scripts_without_spaces() {
        assert_eq!(words("Don't stop, 3.5!"), ["don", "t", "stop", "3", "5"]);
        assert_eq!(words("你好 world。"), ["你", "好", "world"]);
        assert_eq!(words("Straße—ÉTÉ"), ["straße", "été"]);
    }
}
