//! What requests tell a collector of traces; nothing without the feature `otel`.
//!
//! ```text
//! POST /v1/chat/completions      from the head of the request to the end of its answer
//! └ generate                     one prompt's choice, from handing it in to its end
//!   ├ queue                      until its first step
//!   ├ prefill                    until its first token
//!   └ decode                     until its last
//! ```

#[cfg(not(feature = "otel"))]
mod silent;
#[cfg(feature = "otel")]
mod spans;

#[cfg(not(feature = "otel"))]
pub(crate) use silent::{Asked, Trace, Tracing};
#[cfg(feature = "otel")]
pub(crate) use spans::{Asked, Trace, Tracing};
