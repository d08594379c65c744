//! BOS twice, EOS missing: what makes a trained model ramble.

use super::options::Strictness;
use super::{Encoder, Note};
use crate::error::{Error, Result};

impl Encoder {
    /// Looks for a second BOS at the front.
    pub(super) fn audit_bos(&self, ids: &[u32], notes: &mut Vec<Note>) -> Result<()> {
        if !self.tokenizer.has_double_bos(ids) {
            return Ok(());
        }
        match self.options.double_bos {
            Strictness::Ignore => {}
            Strictness::Warn if notes.contains(&Note::DoubleBos) => {}
            Strictness::Warn => notes.push(Note::DoubleBos),
            Strictness::Refuse => {
                let bos = self.tokenizer.special().bos.as_ref();
                return Err(Error::DoubleBos {
                    token: bos.map(|bos| bos.text.clone()).unwrap_or_default(),
                });
            }
        }
        Ok(())
    }

    /// Looks for the end of a generation at the end of what is trained, white space behind it aside.
    pub(super) fn audit_eos(
        &self,
        trained: impl DoubleEndedIterator<Item = u32>,
        notes: &mut Vec<Note>,
    ) -> Result<()> {
        let eos_ids = &self.tokenizer.special().eos_ids;
        let last = trained
            .rev()
            .find(|&id| eos_ids.contains(&id) || !self.is_space(id));
        let Some(last) = last.filter(|last| !eos_ids.contains(last)) else {
            return Ok(());
        };
        let spelling = |id| self.tokenizer.id_to_token(id).unwrap_or_default();
        let last = spelling(last);
        let noted = || {
            let is_eos = |note: &Note| matches!(note, Note::MissingEos { .. });
            notes.iter().any(is_eos)
        };
        match self.options.missing_eos {
            Strictness::Ignore => {}
            Strictness::Warn if noted() => {}
            Strictness::Warn => notes.push(Note::MissingEos { last }),
            Strictness::Refuse => {
                return Err(Error::MissingEos {
                    last,
                    eos: eos_ids.iter().copied().map(spelling).collect(),
                });
            }
        }
        Ok(())
    }

    fn is_space(&self, id: u32) -> bool {
        let text = self.tokenizer.decode(&[id], false);
        text.is_ok_and(|text| text.trim().is_empty())
    }
}
