//! Models and data sets of the Hugging Face hub: list a repository at one commit, then get its files.
//!
//! Interrupted downloads go on where they ended, in this run or in the next.

#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;
mod transfer;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde::Deserialize;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;

use self::transfer::Target;
use crate::console;
use crate::digest::Digest;

/// The public hub; `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";

/// The kinds of files that make a model.
const WANTED: &[&str] = &[".safetensors", ".json", ".jinja", ".model"];

/// The kinds of files that make a data set, plain or compressed.
const DATA: &[&str] = &[
    ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt",
];

/// Downloads the model `OWNER/NAME[@REVISION]` into `<cache>/hub/OWNER--NAME/`, or the data set
/// `datasets/OWNER/NAME[@REVISION]` into `<cache>/hub/datasets--OWNER--NAME/`.
pub(super) fn fetch(repository: &str, cache: &Path) -> Result<()> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let hub = Hub::new(&endpoint, set("HF_TOKEN"), Duration::from_secs(1));
    let parsed = Repository::parse(repository)?;
    let folder = cache.join("hub").join(parsed.folder());
    let count = hub
        .fetch(&parsed, &folder)
        .with_context(|| format!("fetching {repository} from {endpoint}"))?;
    console::note(&format!(
        "{repository}: {count} files in {}",
        folder.display()
    ));
    Ok(())
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// Weights of the top folder and small files of every folder; data files of every folder.
    fn wants(self, path: &str) -> bool {
        let plain = path.strip_suffix(".gz").or(path.strip_suffix(".zst"));
        let ends_in = |path: &str, endings: &[&str]| endings.iter().any(|end| path.ends_with(end));
        match self {
            Self::Model => {
                let is_copy = path.contains('/') && path.ends_with(".safetensors");
                ends_in(path, WANTED) && !is_copy
            }
            Self::Dataset => ends_in(plain.unwrap_or(path), DATA),
        }
    }
}

/// A repository's name and revision, checked to be safe in addresses and paths.
#[derive(Debug, PartialEq, Eq)]
struct Repository {
    kind: Kind,
    owner: String,
    name: String,
    revision: Option<String>,
}

impl Repository {
    fn parse(text: &str) -> Result<Self> {
        let (kind, given) = match text.strip_prefix("datasets/") {
            Some(given) => (Kind::Dataset, given),
            None => (Kind::Model, text),
        };
        let (id, revision) = match given.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (given, None),
        };
        let (owner, name) = id.split_once('/').unwrap_or((id, ""));
        let is_word = |word: &str| {
            word.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !word.is_empty()
                && !word.starts_with('.')
        };
        let well_formed = is_word(owner)
            && is_word(name)
            && revision.is_none_or(|revision| revision.split('/').all(is_word));
        ensure!(
            well_formed,
            "expected OWNER/NAME[@REVISION] or datasets/OWNER/NAME[@REVISION], got `{text}`"
        );
        Ok(Self {
            kind,
            owner: owner.to_owned(),
            name: name.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }

    /// One folder for each repository and, where one was asked for, revision.
    fn folder(&self) -> String {
        let Self { owner, name, .. } = self;
        let kind = match self.kind {
            Kind::Model => "",
            Kind::Dataset => "datasets--",
        };
        match &self.revision {
            None => format!("{kind}{owner}--{name}"),
            Some(revision) => format!("{kind}{owner}--{name}@{}", revision.replace('/', "--")),
        }
    }

    /// Where the hub has the pages of the repository, after its address.
    fn page(&self) -> String {
        let Self { owner, name, .. } = self;
        match self.kind {
            Kind::Model => format!("{owner}/{name}"),
            Kind::Dataset => format!("datasets/{owner}/{name}"),
        }
    }

    /// Where the hub answers questions about it.
    fn api(&self) -> String {
        match self.kind {
            Kind::Model => format!("models/{}", self.page()),
            Kind::Dataset => self.page(),
        }
    }
}

/// What the hub says about a repository at a revision.
#[derive(Debug, Deserialize)]
struct Listing {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

/// One file of a repository.
#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

/// Large files are stored by hash.
#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
}

impl Sibling {
    /// No part of the path leads out of the folder or hides in it.
    fn is_safe(&self) -> bool {
        let is_safe = |part: &str| !part.is_empty() && !part.starts_with('.');
        !self.rfilename.contains(['\\', ':']) && self.rfilename.split('/').all(is_safe)
    }
}

/// A hub to download from.
#[derive(Debug)]
struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    /// Pause before a broken transfer is taken up again.
    pause: Duration,
}

impl Hub {
    fn new(endpoint: &str, token: Option<String>, pause: Duration) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent(concat!("flametune-xtask/", env!("CARGO_PKG_VERSION")));
        // A proxy of the environment leads away from this machine.
        let is_local = endpoint.starts_with("http://127.0.0.1:");
        let config = if is_local { config.proxy(None) } else { config };
        Self {
            agent: config.build().new_agent(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            pause,
        }
    }

    /// Brings `folder` up to date with the repository and tells the number of its files.
    fn fetch(&self, repository: &Repository, folder: &Path) -> Result<usize> {
        let listing = self.listing(repository)?;
        let wanted = listing
            .siblings
            .iter()
            .filter(|sibling| repository.kind.wants(&sibling.rfilename))
            .collect::<Vec<_>>();
        match repository.kind {
            Kind::Model => ensure!(
                wanted
                    .iter()
                    .any(|sibling| sibling.rfilename.ends_with(".safetensors")),
                "it has no .safetensors file, and no other kind of weights is read"
            ),
            Kind::Dataset => ensure!(
                !wanted.is_empty(),
                "it has no data file; read are {}",
                DATA.join(", ")
            ),
        }
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        for sibling in &wanted {
            self.file(repository, &listing.sha, sibling, folder, &bars)
                .with_context(|| sibling.rfilename.clone())?;
        }
        Ok(wanted.len())
    }

    fn listing(&self, repository: &Repository) -> Result<Listing> {
        let revision = repository.revision.as_deref().unwrap_or("main");
        let url = format!(
            "{}/api/{}/revision/{}?blobs=true",
            self.endpoint,
            repository.api(),
            encode(revision, false)
        );
        let mut response = self.get(&url, 0).context("asking for the list of files")?;
        self.explain_status(response.status().as_u16())?;
        let text = response.body_mut().read_to_string()?;
        serde_json::from_str(&text).context("the list of files is not what a hub answers")
    }

    fn file(
        &self,
        repository: &Repository,
        commit: &str,
        sibling: &Sibling,
        folder: &Path,
        bars: &MultiProgress,
    ) -> Result<()> {
        ensure!(
            sibling.is_safe(),
            "the hub lists a path that is not safe to write"
        );
        let bytes = sibling.size.context("the hub tells no size")?;
        let finished = folder.join(&sibling.rfilename);
        let sha256 = sibling.lfs.as_ref().map(|lfs| lfs.sha256.as_str());
        if is_same(&finished, bytes, sha256)? {
            console::note(&format!("  {}: already there", sibling.rfilename));
            return Ok(());
        }
        fs::create_dir_all(finished.parent().unwrap_or(folder))?;
        let target = Target {
            url: format!(
                "{}/{}/resolve/{}/{}",
                self.endpoint,
                repository.page(),
                encode(commit, false),
                encode(&sibling.rfilename, true)
            ),
            // Named after the content, so that it is never continued with another.
            partial: beside(&finished, &format!(".{}.partial", sha256.unwrap_or(commit))),
            bytes,
        };
        let bar = bars.add(ProgressBar::new(bytes).with_message(sibling.rfilename.clone()));
        let outcome = self.transfer(&target, &bar);
        bar.finish_and_clear();
        outcome?;
        if let Some(sha256) = sha256 {
            let got = Digest::of(&target.partial)?.sha256;
            if got != sha256 {
                fs::remove_file(&target.partial)?;
                bail!("wrong content, nothing kept: expected sha256 {sha256}, got {got}");
            }
        }
        fs::rename(&target.partial, &finished)?;
        console::note(&format!(
            "  {}: {}",
            sibling.rfilename,
            super::megabytes(bytes)
        ));
        Ok(())
    }

    /// An error in words for what an answer with this status means.
    fn explain_status(&self, status: u16) -> Result<()> {
        match (status, &self.token) {
            (200..=299, _) => Ok(()),
            (401 | 403, None) => bail!(
                "the repository is gated, private or absent (status {status}): accept its terms on its \
                 page, then set HF_TOKEN to a token of yours"
            ),
            (401 | 403, Some(_)) => bail!(
                "the token in HF_TOKEN does not open it (status {status}): accept its \
                 terms on its page with the account that the token belongs to"
            ),
            (404, _) => bail!("there is no such repository, revision or file (status 404)"),
            (429, _) => bail!("the hub refuses so many requests (status 429): try again later"),
            _ => bail!("the hub answered with status {status}"),
        }
    }
}

/// Whether the file is there with this hash; small files carry none and are always fetched.
fn is_same(path: &Path, bytes: u64, sha256: Option<&str>) -> Result<bool> {
    let Some(sha256) = sha256 else {
        return Ok(false);
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() == bytes => Ok(Digest::of(path)?.sha256 == sha256),
        _ => Ok(false),
    }
}

/// The path with something appended to its file name.
fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Percent-encodes what may not stand in one part of an address, or with slashes in a path.
fn encode(text: &str, keep_slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if is_plain || (keep_slashes && byte == b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
