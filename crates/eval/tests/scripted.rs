//! A model that answers from a script, for tests that need no weights.

use std::cell::{Cell, RefCell};

use flametune_eval::judge::Judge;
use flametune_eval::{
    ChatTurn, Error, GenerationOptions, LanguageModel, ModelRequest, ModelResponse, Result,
};

/// Likelihoods are a hash of the texts, answers are fixed; it can be told to fail after some.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    pub(crate) asked: Cell<usize>,
    pub(crate) fail_after: Option<usize>,
    pub(crate) salt: u64,
}

fn hash(text: &str, salt: u64) -> f64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64 ^ salt;
    for byte in text.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (state >> 11) as f64 / (1_u64 << 53) as f64
}

impl LanguageModel for Scripted {
    fn fingerprint(&self) -> String {
        format!("scripted {}", self.salt)
    }

    fn answer(
        &self,
        requests: &[ModelRequest],
        answered: &mut dyn FnMut(usize, ModelResponse) -> Result<()>,
    ) -> Result<()> {
        for (at, request) in requests.iter().enumerate() {
            if self.fail_after.is_some_and(|most| self.asked.get() >= most) {
                return Err(Error::Model {
                    what: "scripted model".into(),
                    reason: "interrupted".into(),
                });
            }
            self.asked.set(self.asked.get() + 1);
            let response = match request {
                ModelRequest::Loglikelihood {
                    context,
                    continuation,
                } => ModelResponse::Loglikelihood {
                    value: -5.0 * hash(&format!("{context}{continuation}"), self.salt),
                    is_greedy: false,
                },
                ModelRequest::LoglikelihoodRolling { text } => {
                    ModelResponse::LoglikelihoodRolling(-hash(text, self.salt) * text.len() as f64)
                }
                ModelRequest::GenerateUntil { .. } => {
                    ModelResponse::Text("The answer is #### 7".into())
                }
            };
            answered(at, response)?;
        }
        Ok(())
    }

    fn render_chat(&self, turns: &[ChatTurn], open: bool) -> Result<String> {
        let mut text: String = turns
            .iter()
            .map(|turn| format!("<{}>{}", turn.role, turn.content))
            .collect();
        if open {
            text.push_str("<assistant>");
        }
        Ok(text)
    }
}

/// A judge that says what a function makes of the conversation.
pub(crate) struct ScriptedJudge<F> {
    pub(crate) say: F,
    pub(crate) asked: RefCell<Vec<Vec<ChatTurn>>>,
}

impl<F: Fn(&[ChatTurn]) -> Result<String, String>> ScriptedJudge<F> {
    pub(crate) fn new(say: F) -> Self {
        Self {
            say,
            asked: RefCell::default(),
        }
    }
}

impl<F: Fn(&[ChatTurn]) -> Result<String, String>> Judge for ScriptedJudge<F> {
    fn name(&self) -> String {
        "scripted judge".into()
    }

    fn answer(&self, turns: &[ChatTurn], _: &GenerationOptions) -> Result<String, String> {
        self.asked.borrow_mut().push(turns.to_vec());
        (self.say)(turns)
    }
}
