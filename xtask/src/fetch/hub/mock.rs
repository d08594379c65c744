//! A hub of one model on a loopback address, which can break off in the middle of a file.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::digest::Digest;

/// The commit that the mock's listing names.
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One file and how it misbehaves.
#[derive(Debug, Clone)]
pub(super) struct Served {
    path: &'static str,
    content: Vec<u8>,
    /// Size in the listing.
    listed: usize,
    /// Hash in the listing, for large files.
    sha256: Option<String>,
    /// After how many bytes of content each of the first connections is cut.
    cuts: Vec<usize>,
    knows_ranges: bool,
}

impl Served {
    /// A small file, listed without a hash.
    pub(super) fn small(path: &'static str, content: &str) -> Self {
        Self {
            path,
            content: content.into(),
            listed: content.len(),
            sha256: None,
            cuts: Vec::new(),
            knows_ranges: true,
        }
    }

    /// A large file, listed with its hash.
    pub(super) fn large(path: &'static str, bytes: usize) -> Self {
        let content = (0..bytes)
            .map(|i| u8::try_from(i * 7 % 251).unwrap())
            .collect::<Vec<_>>();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("content"), &content).unwrap();
        let digest = Digest::of(&dir.path().join("content")).unwrap();
        let sha256 = Some(digest.sha256);
        Self {
            path,
            content,
            listed: bytes,
            sha256,
            cuts: Vec::new(),
            knows_ranges: true,
        }
    }

    pub(super) fn listed_as(self, listed: usize) -> Self {
        Self { listed, ..self }
    }

    pub(super) fn hashed_as(self, sha256: &str) -> Self {
        Self {
            sha256: Some(sha256.to_owned()),
            ..self
        }
    }

    pub(super) fn cut_after(self, cuts: &[usize]) -> Self {
        Self {
            cuts: cuts.to_vec(),
            ..self
        }
    }

    pub(super) fn without_ranges(self) -> Self {
        Self {
            knows_ranges: false,
            ..self
        }
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }
}

/// A running mock hub; its thread ends with the test process.
#[derive(Debug)]
pub(super) struct Mock {
    pub(super) endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Mock {
    /// Serves the model `tiny/llama`, to holders of `token` only if there is one.
    pub(super) fn start(files: Vec<Served>, token: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            let mut files = files;
            for stream in listener.incoming() {
                answer(&stream.unwrap(), &mut files, token, &log);
            }
        });
        Self { endpoint, requests }
    }

    /// The requests so far, as `PATH` or `PATH bytes=START-`.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(stream: &TcpStream, files: &mut [Served], token: Option<&str>, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers = lines
        .take_while(|line| !line.is_empty())
        .collect::<Vec<_>>();
    let header = |name: &str| {
        headers.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let range = header("range");
    log.lock().unwrap().push(match &range {
        Some(range) => format!("{path} {range}"),
        None => path.clone(),
    });
    if let Some(token) = token
        && header("authorization") != Some(format!("Bearer {token}"))
    {
        return reply(stream, "401 Unauthorized", "", b"", usize::MAX);
    }
    if path.starts_with("/api/models/tiny/llama/revision/main?") {
        return reply(stream, "200 OK", "", listing(files).as_bytes(), usize::MAX);
    }
    let file = path.strip_prefix(&format!("/tiny/llama/resolve/{COMMIT}/"));
    let Some(file) = file.and_then(|file| files.iter_mut().find(|served| served.path == file))
    else {
        return reply(stream, "404 Not Found", "", b"", usize::MAX);
    };
    let cut = if file.cuts.is_empty() {
        usize::MAX
    } else {
        file.cuts.remove(0)
    };
    match range.filter(|_| file.knows_ranges) {
        None => reply(stream, "200 OK", "", &file.content, cut),
        Some(range) => {
            let start = range.trim_start_matches("bytes=").trim_end_matches('-');
            let start = start.parse::<usize>().unwrap();
            let total = file.content.len();
            let extra = format!("content-range: bytes {start}-{}/{total}\r\n", total - 1);
            reply(
                stream,
                "206 Partial Content",
                &extra,
                &file.content[start..],
                cut,
            );
        }
    }
}

/// Announces all of the body and sends at most `cut` bytes of it.
fn reply(mut stream: &TcpStream, status: &str, extra: &str, body: &[u8], cut: usize) {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{extra}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..cut.min(body.len())]).unwrap();
}

fn listing(files: &[Served]) -> String {
    let siblings = files
        .iter()
        .map(|served| {
            let lfs = served
                .sha256
                .as_ref()
                .map(|sha256| serde_json::json!({"sha256": sha256}));
            serde_json::json!({"rfilename": served.path, "size": served.listed, "lfs": lfs})
        })
        .collect::<Vec<_>>();
    serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string()
}
