//! What a rendering may cost, and a thread that survives spending it.
//!
//! Templates are untrusted programs. Steps are limited in proportion to the conversation, and since a template can
//! nest a list in a list at every step, and the engine prints and frees values recursively, rendering happens on a
//! thread whose stack has room for the deepest value that the steps can build.

use serde_json::Value;

use crate::error::{Error, Result};

/// Steps for a template that looks at nothing; published templates need fewer than 200.
const BASE: u64 = 50_000;
/// Steps for each message, tool and document; published templates need fewer than 80.
const PER_ENTRY: u64 = 500;
/// Bytes of text for one step more; published templates need one step for at least ten bytes.
const BYTES_PER_STEP: u64 = 4;
/// Steps beyond which a larger conversation gets no more.
const LARGEST: u64 = 2_000_000;
/// Stack that one level of nesting takes when it is printed, with room to spare: 700 bytes were measured.
const STACK_PER_STEP: u64 = 1024;
const SMALLEST_STACK: u64 = 16 << 20;

/// The steps that a rendering of these values may take.
pub(super) fn fuel<'a>(entries: impl Iterator<Item = &'a Value>) -> u64 {
    let (mut count, mut bytes) = (0_u64, 0_u64);
    for entry in entries {
        count += 1;
        bytes = bytes.saturating_add(text_bytes(entry));
    }
    BASE.saturating_add(count.saturating_mul(PER_ENTRY))
        .saturating_add(bytes / BYTES_PER_STEP)
        .min(LARGEST)
}

/// Bytes of text in a value, with one for everything that is no text.
fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
        Value::Array(items) => items.iter().map(text_bytes).fold(1, u64::saturating_add),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| {
                text_bytes(value).saturating_add(u64::try_from(key.len()).unwrap_or(u64::MAX))
            })
            .fold(1, u64::saturating_add),
        _ => 1,
    }
}

/// Runs on a thread with a stack for values of as many levels as there are steps.
pub(super) fn with_stack<T: Send>(
    template: &str,
    fuel: u64,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let bytes = SMALLEST_STACK.saturating_add(fuel.saturating_mul(STACK_PER_STEP));
    let failed = |reason: String| Error::TemplateRender {
        template: template.to_owned(),
        line: 0,
        reason,
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(usize::try_from(bytes).unwrap_or(usize::MAX))
            .spawn_scoped(scope, work)
            .map_err(|error| {
                failed(format!(
                    "cannot start a thread with {bytes} bytes of stack: {error}"
                ))
            })?
            .join()
            .unwrap_or_else(|_| Err(failed("the template engine panicked".to_owned())))
    })
}
