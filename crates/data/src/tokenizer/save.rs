//! A tokenizer as the files of a model folder.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::processors::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{PostProcessor, PostProcessorWrapper};

use super::Tokenizer;
use crate::error::{Error, Result};

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and, for a model that
    /// has one, `chat_template.jinja`, as transformers and [`Self::from_folder`] read them.
    ///
    /// The tokens that [`Self::bos_eos`] names become part of the post-processor, so that every
    /// reader of `tokenizer.json` adds them.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be written; [`Error::NotSaved`] for a tokenizer that has
    /// no JSON form.
    pub fn save_pretrained(&self, folder: &Path) -> Result<()> {
        let mut config = Map::from_iter([
            (
                "tokenizer_class".to_owned(),
                json!("PreTrainedTokenizerFast"),
            ),
            ("clean_up_tokenization_spaces".to_owned(), json!(false)),
        ]);
        let mut generation = Map::new();
        for (name, token) in self.special.named() {
            config.insert(name.to_owned(), json!(token.text));
            if name != "unk_token" {
                generation.insert(format!("{name}_id"), json!(token.id));
            }
        }
        if self.special.eos_ids.len() > 1 {
            generation.insert("eos_token_id".to_owned(), json!(self.special.eos_ids));
        }
        write(folder, "tokenizer.json", &self.json()?)?;
        write(folder, "tokenizer_config.json", &pretty(config))?;
        write(folder, "generation_config.json", &pretty(generation))?;
        if let Some(template) = &self.chat_template {
            write(folder, "chat_template.jinja", template)?;
        }
        Ok(())
    }

    /// `tokenizer.json`, with BOS and EOS in the post-processor.
    fn json(&self) -> Result<String> {
        let failed = |error: String| Error::NotSaved { reason: error };
        let mut inner = self.inner.clone();
        if self.bos_eos.is_some() {
            let own = inner.get_post_processor().cloned();
            // One that adds tokens of its own gives way; one that only trims offsets stays.
            let own = own.filter(|own| own.added_tokens(false) == 0);
            let processors: Vec<_> = own
                .into_iter()
                .chain(self.around().map_err(failed)?)
                .collect();
            let all = match <[_; 1]>::try_from(processors) {
                Ok([one]) => Some(one),
                Err(none) if none.is_empty() => None,
                Err(several) => Some(PostProcessorWrapper::Sequence(Sequence::new(several))),
            };
            inner.with_post_processor(all);
        }
        inner
            .to_string(true)
            .map_err(|error| failed(error.to_string()))
    }

    /// The post-processor that puts BOS and EOS around a text, where the tokenizer's own does not.
    fn around(&self) -> std::result::Result<Option<PostProcessorWrapper>, String> {
        let Some(policy) = self.bos_eos else {
            return Ok(None);
        };
        let bos = self.special.bos.as_ref().filter(|_| policy.bos);
        let eos = self.special.eos.as_ref().filter(|_| policy.eos);
        if bos.is_none() && eos.is_none() {
            return Ok(None);
        }
        // Pieces as a list: in the textual form a token with a space or a colon would be cut.
        let special = |token: &super::SpecialToken, type_id: u32| json!({ "SpecialToken": { "id": token.text, "type_id": type_id } });
        let sequence = |id: &str, type_id: u32| {
            let mut pieces: Vec<Value> = bos.map(|bos| special(bos, type_id)).into_iter().collect();
            pieces.push(json!({ "Sequence": { "id": id, "type_id": type_id } }));
            pieces.extend(eos.map(|eos| special(eos, type_id)));
            pieces
        };
        let tokens: Map<String, Value> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|token| {
                let value = json!({ "id": token.text, "ids": [token.id], "tokens": [token.text] });
                (token.text.clone(), value)
            })
            .collect();
        let pair = [sequence("A", 0), sequence("B", 1)].concat();
        let template = json!({
            "type": "TemplateProcessing",
            "single": sequence("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        });
        serde_json::from_value::<TemplateProcessing>(template)
            .map(|template| Some(PostProcessorWrapper::Template(template)))
            .map_err(|error| error.to_string())
    }
}

fn pretty(fields: Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(fields))
}

/// Writes a file whole or not at all.
fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    let partial = folder.join(format!(".{name}.partial"));
    let written = std::fs::File::create(&partial).and_then(|mut file| {
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, &path)
    });
    written.map_err(|source| Error::Io { path, source })
}
