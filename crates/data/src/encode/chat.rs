//! Conversations: which of the template's tokens are trained.

use std::ops::Range;

use serde_json::Value;

use super::turns::{TurnSpan, train_flags, turn_spans};
use super::{Encoder, Outcome, TrainOn};
use crate::chat::{ChatInput, RenderedChat};
use crate::error::{Error, Result};
use crate::message::Message;

impl Encoder {
    /// The conversation through the chat template.
    pub(super) fn encode_chat(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
    ) -> Result<Outcome> {
        if messages.is_empty() {
            return Err(Error::EmptyField { field: "messages" });
        }
        let template = self.template_for("chat")?;
        let input = self.chat_input(messages, tools);
        let policy = self.options.train_on;
        let flags = train_flags(messages, policy)?;
        let flagged = flags.contains(&Some(false));
        if policy == TrainOn::All && !flagged {
            let ids = self.tokenizer.encode(&template.render(&input)?, false)?;
            let trained = vec![true; ids.len()];
            return self.finish(ids, trained, true);
        }
        let mut chat = template.render_with_spans(&input)?;
        if !flagged && policy == TrainOn::Assistant {
            return self.finish_spans(&chat, policy, "");
        }
        let turns = turn_spans(template, &input, &chat)?;
        let masked = |turn: &TurnSpan| flags.get(turn.message).copied().flatten() == Some(false);
        let after_user = messages.iter().rposition(|message| message.role == "user");
        let of_last_turn = |turn: &TurnSpan| after_user.is_none_or(|user| turn.message > user);
        let select = |keep: &dyn Fn(&TurnSpan) -> bool| -> Vec<Range<usize>> {
            let kept = turns.iter().filter(|turn| keep(turn));
            kept.map(|turn| turn.span.clone()).collect()
        };
        let reason;
        (chat.assistant_spans, reason) = match policy {
            TrainOn::All => (select(&masked), "every message is marked as not trained"),
            TrainOn::Assistant => (
                select(&|turn| !masked(turn)),
                "every assistant message is marked as not trained",
            ),
            TrainOn::LastTurn => (
                select(&|turn| of_last_turn(turn) && !masked(turn)),
                "no assistant message that is trained follows the last user message",
            ),
        };
        self.finish_spans(&chat, policy, reason)
    }

    /// Labels the tokens of the spans, or all others under [`TrainOn::All`].
    fn finish_spans(&self, chat: &RenderedChat, policy: TrainOn, reason: &str) -> Result<Outcome> {
        let encoded = chat.encode(&self.tokenizer)?;
        let tokens = encoded.ids.len();
        let mut trained = encoded.assistant_mask;
        if policy == TrainOn::All {
            trained.iter_mut().for_each(|trained| *trained = !*trained);
        }
        let count = trained.iter().filter(|&&trained| trained).count();
        let template = || chat.template.clone();
        if count == 0 && reason.is_empty() {
            let template = template();
            return Err(Error::AssistantMaskEmpty { template, tokens });
        }
        if count == 0 {
            let reason = reason.to_owned();
            return Err(Error::NothingTrained { tokens, reason });
        }
        if count == tokens && policy != TrainOn::All {
            let template = template();
            return Err(Error::AssistantMaskFull { template, tokens });
        }
        self.finish(encoded.ids, trained, true)
    }

    /// What the template is rendered with.
    pub(super) fn chat_input<'a>(
        &self,
        messages: &'a [Message],
        tools: Option<&'a [Value]>,
    ) -> ChatInput<'a> {
        let mut input = ChatInput::new(messages);
        input.variables.clone_from(&self.options.variables);
        input.tools = tools;
        input.now = self.options.now;
        input.special_tokens(self.tokenizer.special())
    }
}
