//! Chat templates: from a conversation to text, and to the tokens that the assistant wrote.

mod budget;
mod builtin;
mod clock;
mod continuation;
mod environment;
mod input;
mod lexer;
mod limits;
mod mask;
mod spans;
mod template;
mod tojson;

pub use builtin::BUILTIN_TEMPLATES;
pub use clock::CivilTime;
pub use input::ChatInput;
pub use lexer::{RewrittenTemplate, rewrite_generation_tags};
pub use mask::EncodedChat;
pub use spans::RenderedChat;
pub use template::{ChatTemplate, MAX_TEMPLATE_BYTES};
