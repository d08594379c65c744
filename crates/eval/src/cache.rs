//! Answers of models on disk: an interrupted evaluation goes on where it was, and a repeated one asks nothing.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, Result};
use crate::model::{LanguageModel, ModelRequest, ModelResponse};

/// Answers of one model.
///
/// The file has one line an answer and is only appended to; a line that a crash cut off is dropped when it is opened.
#[derive(Debug)]
pub struct AnswerCache {
    path: PathBuf,
    file: File,
    answers: HashMap<String, Stored>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    k: String,
    #[serde(flatten)]
    answer: Stored,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Loglikelihood { ll: f64, greedy: bool },
    Rolling { rolling: f64 },
    Text { text: String },
}

impl AnswerCache {
    /// Opens the answers of a model in a folder, which is made if need be.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Cache`] for a file with a broken line before its last.
    pub fn open(folder: &Path, fingerprint: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let name = format!("answers-{:032x}.jsonl", xxh3_128(fingerprint.as_bytes()));
        let path = folder.join(name);
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(Error::io(&path))?;
        let (answers, whole) = read(&path, &mut file)?;
        // Cuts off what a crash left of the last line.
        file.set_len(whole).map_err(Error::io(&path))?;
        Ok(Self {
            path,
            file,
            answers,
        })
    }

    /// Number of answers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    fn get(&self, key: &str) -> Option<ModelResponse> {
        self.answers.get(key).map(|stored| match stored.clone() {
            Stored::Loglikelihood { ll, greedy } => ModelResponse::Loglikelihood {
                value: ll,
                is_greedy: greedy,
            },
            Stored::Rolling { rolling } => ModelResponse::LoglikelihoodRolling(rolling),
            Stored::Text { text } => ModelResponse::Text(text),
        })
    }

    fn put(&mut self, key: String, response: &ModelResponse) -> Result<()> {
        let answer = match response.clone() {
            ModelResponse::Loglikelihood { value, is_greedy } => Stored::Loglikelihood {
                ll: value,
                greedy: is_greedy,
            },
            ModelResponse::LoglikelihoodRolling(value) => Stored::Rolling { rolling: value },
            ModelResponse::Text(text) => Stored::Text { text },
        };
        let line = Line { k: key, answer };
        let reason = |error: serde_json::Error| Error::Cache {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let mut text = serde_json::to_string(&line).map_err(reason)?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .map_err(Error::io(&self.path))?;
        self.answers.insert(line.k, line.answer);
        Ok(())
    }
}

/// The answers of a file, and the length of its whole lines.
fn read(path: &Path, file: &mut File) -> Result<(HashMap<String, Stored>, u64)> {
    file.seek(SeekFrom::Start(0)).map_err(Error::io(path))?;
    let mut reader = BufReader::new(file);
    let mut answers = HashMap::new();
    let (mut whole, mut number) = (0_u64, 0_usize);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .map_err(Error::io(path))?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok((answers, whole));
        }
        number += 1;
        let parsed: Line = serde_json::from_slice(&line).map_err(|error| Error::Cache {
            path: path.to_owned(),
            reason: format!("line {number} is no stored answer ({error}); delete the file"),
        })?;
        answers.insert(parsed.k, parsed.answer);
        whole += read as u64;
    }
}

/// The key of a request: a hash of everything its answer depends on besides the model.
fn key(request: &ModelRequest) -> String {
    let parts: Vec<String> = match request {
        ModelRequest::Loglikelihood {
            context,
            continuation,
        } => vec!["ll".into(), context.clone(), continuation.clone()],
        ModelRequest::LoglikelihoodRolling { text } => vec!["rolling".into(), text.clone()],
        ModelRequest::GenerateUntil {
            context,
            options,
            repeat,
        } => vec![
            "generate".into(),
            context.clone(),
            format!("{options:?}"),
            repeat.to_string(),
        ],
    };
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    format!("{:032x}", xxh3_128(&bytes))
}

/// Asks a model for what is not stored, and stores each answer at once; requests that are the same are asked once.
///
/// # Errors
/// What the model and the store report; answers that came before stay stored.
pub fn answer_cached(
    model: &dyn LanguageModel,
    requests: &[ModelRequest],
    mut cache: Option<&mut AnswerCache>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<ModelResponse>> {
    let keys: Vec<String> = requests.iter().map(key).collect();
    let mut answers: Vec<Option<ModelResponse>> = vec![None; requests.len()];
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut open = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        if let Some(stored) = cache.as_ref().and_then(|cache| cache.get(key)) {
            answers[index] = Some(stored);
        } else if !first.contains_key(key.as_str()) {
            first.insert(key, index);
            open.push(index);
        }
    }
    let asked: Vec<ModelRequest> = open.iter().map(|&index| requests[index].clone()).collect();
    let mut done = requests.len() - open.len();
    progress(done, requests.len());
    if !asked.is_empty() {
        model.answer(&asked, &mut |at, response| {
            let index = open[at];
            if let Some(cache) = cache.as_mut() {
                cache.put(keys[index].clone(), &response)?;
            }
            answers[index] = Some(response);
            done += 1;
            progress(done, requests.len());
            Ok(())
        })?;
    }
    let resolved: Vec<Option<ModelResponse>> = (0..requests.len())
        .map(|index| match &answers[index] {
            Some(answer) => Some(answer.clone()),
            None => first
                .get(keys[index].as_str())
                .and_then(|&at| answers[at].clone()),
        })
        .collect();
    let missing = resolved.iter().position(Option::is_none);
    if let Some(index) = missing {
        return Err(Error::Model {
            what: format!("request {index}"),
            reason: "the model gave no answer".to_owned(),
        });
    }
    Ok(resolved.into_iter().flatten().collect())
}
