//! Constraints on what may be generated, token by token.

use std::fmt;

use crate::error::Result;

/// Decides at each place which tokens may come, and hears which one came.
pub trait Constraint: Send {
    /// Sets the logits of tokens that may not come next to `-∞`.
    ///
    /// # Errors
    /// [`Error::Guide`](crate::Error::Guide) when the constraint cannot go on.
    fn restrict(&mut self, logits: &mut [f32]) -> Result<()>;

    /// Takes the chosen token in, and says whether the output is complete with it.
    ///
    /// # Errors
    /// [`Error::Guide`](crate::Error::Guide) when the token was not allowed.
    fn advance(&mut self, token: u32) -> Result<bool>;

    /// A second one in the same state.
    fn fork(&self) -> Box<dyn Constraint>;
}

/// A [`Constraint`] as it stands before the first token.
///
/// Every choice of a request gets one of its own. With feature `guided`, `GuideFactory` makes them
/// from JSON schemas, regular expressions and grammars.
pub struct Guide(Box<dyn Constraint>);

impl Guide {
    /// Wraps a constraint.
    #[must_use]
    pub fn new(constraint: impl Constraint + 'static) -> Self {
        Self(Box::new(constraint))
    }

    pub(crate) fn start(&self) -> Box<dyn Constraint> {
        self.0.fork()
    }
}

impl Clone for Guide {
    fn clone(&self) -> Self {
        Self(self.0.fork())
    }
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").finish_non_exhaustive()
    }
}
