//! Models that judge answers: ratings against a rubric, and comparisons of two answers.
//!
//! A judge is anything that answers a conversation: a model of this workspace ([`LocalJudge`]) or an endpoint that a
//! caller reaches. Every comparison is asked in both orders, answers that cannot be read are asked for again, and
//! reports say how far position and length decided.

mod ask;
mod length;
mod pairwise;
mod rating;
mod read;
mod report;

use crate::error::{Error, Result};
use crate::harness::GenerationOptions;
use crate::model::{ChatTurn, LanguageModel, ModelRequest, ModelResponse};

pub use ask::JudgeOptions;
pub use length::{LengthControl, length_controlled_win_rate};
pub use pairwise::{PairItem, PairVerdict, PairwiseReport, compare_answers};
pub use rating::{RatedItem, Rating as ItemRating, RatingReport, Rubric, rate_answers};
pub use read::{read_choice, read_score};
pub use report::{BiasReport, Failure, LabelAgreement};

/// Something that answers a conversation.
pub trait Judge {
    /// Names the judge in reports and stores.
    fn name(&self) -> String;

    /// The next turn of the assistant.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn answer(&self, turns: &[ChatTurn], options: &GenerationOptions) -> Result<String, String>;
}

/// A model of this workspace as a judge, spoken to through its chat template.
#[derive(Clone, Copy)]
pub struct LocalJudge<'m> {
    model: &'m dyn LanguageModel,
}

impl std::fmt::Debug for LocalJudge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LocalJudge")
            .field(&self.model.fingerprint())
            .finish()
    }
}

impl<'m> LocalJudge<'m> {
    /// Lets a model judge.
    #[must_use]
    pub fn new(model: &'m dyn LanguageModel) -> Self {
        Self { model }
    }
}

impl Judge for LocalJudge<'_> {
    fn name(&self) -> String {
        self.model.fingerprint()
    }

    fn answer(&self, turns: &[ChatTurn], options: &GenerationOptions) -> Result<String, String> {
        let words = |error: Error| error.to_string();
        let context = self.model.render_chat(turns, true).map_err(words)?;
        let request = ModelRequest::GenerateUntil {
            context,
            options: options.clone(),
            repeat: 0,
        };
        let mut text = None;
        let mut keep = |_, response: ModelResponse| {
            if let ModelResponse::Text(answer) = response {
                text = Some(answer);
            }
            Ok(())
        };
        self.model.answer(&[request], &mut keep).map_err(words)?;
        text.ok_or_else(|| "it answered nothing".to_owned())
    }
}
