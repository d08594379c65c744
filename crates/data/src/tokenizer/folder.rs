//! Reading the tokenizer files of a model folder.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::special::{BosEos, SpecialToken};
use super::{Tokenizer, json};
use crate::error::{Error, Result};
use crate::message::json_kind;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const GENERATION: &str = "generation_config.json";

/// One JSON file of a folder, empty when the file does not exist.
struct JsonFile {
    path: PathBuf,
    fields: Map<String, Value>,
}

/// Reads the whole folder.
pub(super) fn read(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join(TOKENIZER);
    let bytes = read_optional(&path)?.ok_or_else(|| Error::MissingFile {
        folder: folder.to_owned(),
        file: TOKENIZER,
    })?;
    let mut tokenizer = Tokenizer::from_inner(json::parse(&path.display().to_string(), &bytes)?);
    let config = JsonFile::read(folder, CONFIG)?;
    let map = JsonFile::read(folder, SPECIAL_TOKENS)?;
    let generation = JsonFile::read(folder, GENERATION)?;

    let mut named = |name: &str| -> Result<Option<SpecialToken>> {
        for file in [&config, &map] {
            if let Some(text) = file.token(name)? {
                return special_token(&mut tokenizer, text);
            }
        }
        Ok(None)
    };
    let (bos, eos, pad, unk) = (
        named("bos_token")?,
        named("eos_token")?,
        named("pad_token")?,
        named("unk_token")?,
    );
    let by_id = |token: Option<SpecialToken>, field: &str| -> Result<Option<SpecialToken>> {
        match token {
            Some(token) => Ok(Some(token)),
            None => Ok(generation
                .ids(field)?
                .first()
                .and_then(|&id| known_id(&tokenizer, id))),
        }
    };
    let (bos, eos, pad) = (
        by_id(bos, "bos_token_id")?,
        by_id(eos, "eos_token_id")?,
        by_id(pad, "pad_token_id")?,
    );
    tokenizer.special.eos_ids = eos.iter().map(|token| token.id).collect();
    for id in generation.ids("eos_token_id")? {
        tokenizer.special.add_eos_id(id);
    }
    (tokenizer.special.bos, tokenizer.special.eos) = (bos, eos);
    (tokenizer.special.pad, tokenizer.special.unk) = (pad, unk);
    tokenizer.bos_eos = explicit_policy(&config, &tokenizer)?;
    tokenizer.chat_template = chat_template(folder)?.map(|(_, source)| source);
    Ok(tokenizer)
}

/// File and source of the folder's default chat template.
pub(crate) fn chat_template(folder: &Path) -> Result<Option<(String, String)>> {
    let path = folder.join("chat_template.jinja");
    let name = |path: &Path| path.display().to_string();
    if let Some(bytes) = read_optional(&path)? {
        let source = String::from_utf8(bytes).map_err(|error| Error::InvalidField {
            file: name(&path),
            field: format!("byte {}", error.utf8_error().valid_up_to()),
            expected: "UTF-8",
            got: "other bytes".to_owned(),
        })?;
        return Ok(Some((name(&path), source)));
    }
    for file in ["chat_template.json", CONFIG] {
        let file = JsonFile::read(folder, file)?;
        if let Some(source) = file.template()? {
            return Ok(Some((name(&file.path), source)));
        }
    }
    Ok(None)
}

impl JsonFile {
    fn read(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let fields = match read_optional(&path)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::json(&path.display().to_string(), &error))?,
            None => Map::new(),
        };
        Ok(Self { path, fields })
    }

    fn invalid(&self, field: &str, expected: &'static str, value: &Value) -> Error {
        let got = json_kind(value).to_owned();
        Error::InvalidField {
            file: self.path.display().to_string(),
            field: field.to_owned(),
            expected,
            got,
        }
    }

    /// A token: its text, or an object that has the text as `content`.
    fn token(&self, field: &str) -> Result<Option<&str>> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => match value.get("content") {
                Some(Value::String(text)) => Ok(Some(text)),
                _ => Err(self.invalid(field, "a string or an object with content", value)),
            },
        }
    }

    /// Token ids: one, or a list.
    fn ids(&self, field: &str) -> Result<Vec<u32>> {
        let one = |value: &Value| {
            value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| self.invalid(field, "a token id or a list of token ids", value))
        };
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(one).collect(),
            Some(value) => Ok(vec![one(value)?]),
        }
    }

    fn flag(&self, field: &str) -> Result<Option<bool>> {
        match self.fields.get(field) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(false)),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.invalid(field, "a boolean", value)),
        }
    }

    /// `chat_template`: the source, or a list of named sources of which `default` is taken.
    fn template(&self) -> Result<Option<String>> {
        const EXPECTED: &str = "a string or a list of objects with name and template";
        match self.fields.get("chat_template") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(source)) => Ok(Some(source.clone())),
            Some(Value::Array(named)) => {
                let mut default = None;
                for (index, entry) in named.iter().enumerate() {
                    let (Some(Value::String(name)), Some(Value::String(source))) =
                        (entry.get("name"), entry.get("template"))
                    else {
                        return Err(self.invalid(
                            &format!("chat_template[{index}]"),
                            EXPECTED,
                            entry,
                        ));
                    };
                    if name == "default" {
                        default = Some(source.clone());
                    }
                }
                Ok(default)
            }
            Some(value) => Err(self.invalid("chat_template", EXPECTED, value)),
        }
    }
}

/// The token with this text, added to the vocabulary when it is not there, as the reference does.
fn special_token(tokenizer: &mut Tokenizer, text: &str) -> Result<Option<SpecialToken>> {
    if tokenizer.token_to_id(text).is_none() {
        log::warn!("special token {text:?} is not in the vocabulary and gets a new id");
    }
    if !tokenizer
        .inner
        .get_added_vocabulary()
        .get_vocab()
        .contains_key(text)
    {
        tokenizer
            .inner
            .add_special_tokens([AddedToken::from(text, true).normalized(false)])
            .map_err(|error| Error::Encode {
                reason: error.to_string(),
            })?;
    }
    // An empty text names no token.
    Ok(tokenizer.token_to_id(text).map(|id| SpecialToken {
        id,
        text: text.to_owned(),
    }))
}

fn known_id(tokenizer: &Tokenizer, id: u32) -> Option<SpecialToken> {
    tokenizer
        .id_to_token(id)
        .map(|text| SpecialToken { id, text })
}

/// `add_bos_token` and `add_eos_token`, which override the post-processor when either is there.
fn explicit_policy(config: &JsonFile, tokenizer: &Tokenizer) -> Result<Option<BosEos>> {
    let (bos, eos) = (config.flag("add_bos_token")?, config.flag("add_eos_token")?);
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    Ok(Some(BosEos {
        bos: bos.unwrap_or(false) && tokenizer.special.bos.is_some(),
        eos: eos.unwrap_or(false) && tokenizer.special.eos.is_some(),
    }))
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            path: path.to_owned(),
            source,
        }),
    }
}
