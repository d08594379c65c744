//! Any text as a chat template: rewriting its tags loses nothing, and compiling and rendering it never panics.
//!
//! The templates in `fixtures/chat/templates.json` and `crates/data/src/chat/builtin` make a good corpus.

#![no_main]

use flametune_data::{ChatInput, ChatTemplate, Message, rewrite_generation_tags};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let rewritten = rewrite_generation_tags(source);
    assert_eq!(rewritten.source.matches('\n').count(), source.matches('\n').count());
    assert!(rewritten.generation_tags > 0 || rewritten.source.len() <= source.len());
    let Ok(template) = ChatTemplate::new("fuzz", source) else {
        return;
    };
    let messages = [Message::user("hi"), Message::assistant("yo")];
    let _ = template.with_fuel(10_000).render_with_spans(&ChatInput::new(&messages));
});
