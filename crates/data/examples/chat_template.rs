//! Renders a conversation with a built-in chat template and shows what a model would be trained on.
//!
//! ```text
//! cargo run -p flametune-data --example chat_template            # every built-in template
//! cargo run -p flametune-data --example chat_template -- gemma   # one of them
//! cargo run -p flametune-data --example chat_template -- FOLDER  # the template and tokenizer of a model folder
//! ```

use std::error::Error;
use std::io::Write;
use std::path::Path;

use flametune_data::{BUILTIN_TEMPLATES, ChatInput, ChatTemplate, Message, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let messages = [
        Message::user("What is 2 + 2?"),
        Message::assistant("4"),
        Message::user("And 3 + 3?"),
        Message::assistant("6"),
    ];
    let mut out = std::io::stdout().lock();
    match std::env::args().nth(1) {
        Some(folder) if Path::new(&folder).is_dir() => {
            show_tokens(&mut out, Path::new(&folder), &messages)?
        }
        Some(name) => show_text(&mut out, &name, &messages)?,
        None => {
            for name in BUILTIN_TEMPLATES {
                show_text(&mut out, name, &messages)?;
            }
        }
    }
    Ok(())
}

/// The rendered text, with ⟦…⟧ around what the assistant wrote.
fn show_text(out: &mut impl Write, name: &str, messages: &[Message]) -> Result<(), Box<dyn Error>> {
    let input = ChatInput::new(messages)
        .variable("bos_token", "<s>")
        .variable("eos_token", "</s>");
    let chat = ChatTemplate::builtin(name)?.render_with_spans(&input)?;
    let mut text = chat.text;
    for span in chat.assistant_spans.iter().rev() {
        text.insert(span.end, '⟧');
        text.insert(span.start, '⟦');
    }
    writeln!(out, "--- {name}\n{text}")?;
    Ok(())
}

/// The tokens of the text, those that are trained on marked with a star.
fn show_tokens(
    out: &mut impl Write,
    folder: &Path,
    messages: &[Message],
) -> Result<(), Box<dyn Error>> {
    let tokenizer = Tokenizer::from_folder(folder)?;
    let template = match ChatTemplate::from_folder(folder)? {
        Some(template) => template,
        None => ChatTemplate::builtin("chatml")?,
    };
    let input = ChatInput::new(messages).special_tokens(tokenizer.special());
    let chat = template.encode(&input, &tokenizer)?;
    for (id, trained) in chat.ids.iter().zip(&chat.assistant_mask) {
        let token = tokenizer.id_to_token(*id).unwrap_or_default();
        writeln!(out, "{} {id:>7} {token}", if *trained { '*' } else { ' ' })?;
    }
    Ok(())
}
