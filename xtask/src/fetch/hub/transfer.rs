//! One file over HTTP, taken up again with a range request where it broke off.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use ureq::Body;
use ureq::http::{Response, header};

use super::Hub;

/// Attempts in a row that bring nothing before the transfer is given up.
const ATTEMPTS: usize = 5;

/// What to get, where to, and how much of it there is.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) partial: PathBuf,
    pub(super) bytes: u64,
}

/// Why an attempt ended early.
enum Stop {
    /// Trying again may help.
    Broken(anyhow::Error),
    /// It cannot.
    Final(anyhow::Error),
}

impl Stop {
    /// Anything that goes wrong on this machine.
    fn here(error: impl Into<anyhow::Error>) -> Self {
        Self::Final(error.into())
    }
}

impl Hub {
    /// Completes the partial file, with as many requests as that takes.
    pub(super) fn transfer(&self, target: &Target, bar: &ProgressBar) -> Result<()> {
        let style = ProgressStyle::with_template(
            "  {msg} {bar:32} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
        )?;
        bar.set_style(style);
        let mut fruitless = 0;
        loop {
            let before = length(target);
            match self.attempt(target, bar) {
                Ok(()) => return Ok(()),
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Broken(error)) => {
                    let have = length(target);
                    fruitless = if have > before { 0 } else { fruitless + 1 };
                    if fruitless == ATTEMPTS {
                        return Err(error.context(format!(
                            "the transfer broke off at {have} of {} bytes; the same command \
                             goes on from there",
                            target.bytes
                        )));
                    }
                    thread::sleep(self.pause);
                }
            }
        }
    }

    /// One request from where the partial file ends.
    fn attempt(&self, target: &Target, bar: &ProgressBar) -> Result<(), Stop> {
        let mut have = length(target);
        if have > target.bytes {
            fs::remove_file(&target.partial).map_err(Stop::here)?;
            have = 0;
        }
        if have == target.bytes && target.partial.exists() {
            return Ok(());
        }
        let response = self.get(&target.url, have).map_err(Stop::Broken)?;
        let start = self.start(&response, have, target.bytes)?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(start > 0)
            .write(true)
            .truncate(start == 0)
            .open(&target.partial)
            .map_err(Stop::here)?;
        receive(response, &mut file, start, target.bytes, bar)
    }

    /// Sends the request, asking for the bytes from `start` on.
    pub(super) fn get(&self, url: &str, start: u64) -> Result<Response<Body>> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        request
            .call()
            .with_context(|| format!("no answer from {url}"))
    }

    /// Where the answer's content starts in the file: at `have`, or at 0 if ranges are ignored.
    fn start(&self, response: &Response<Body>, have: u64, bytes: u64) -> Result<u64, Stop> {
        let status = response.status().as_u16();
        let (start, total) = match status {
            200 => (0, response.body().content_length()),
            206 => content_range(response).ok_or_else(|| {
                Stop::Final(anyhow!(
                    "the hub sent a part of the file without saying which"
                ))
            })?,
            429 | 500..=599 => {
                return Err(Stop::Broken(anyhow!(
                    "the hub answered with status {status}"
                )));
            }
            _ => {
                self.explain_status(status).map_err(Stop::Final)?;
                return Err(Stop::Final(anyhow!(
                    "the hub answered with status {status}"
                )));
            }
        };
        if start != 0 && start != have {
            return Err(Stop::Final(anyhow!(
                "asked for the file from byte {have}, got it from byte {start}"
            )));
        }
        if let Some(total) = total.filter(|total| *total != bytes) {
            return Err(Stop::Final(anyhow!(
                "the list of files says {bytes} bytes, the file itself {total}"
            )));
        }
        Ok(start)
    }
}

/// Appends the content to the file up to the expected size.
fn receive(
    response: Response<Body>,
    file: &mut File,
    start: u64,
    bytes: u64,
    bar: &ProgressBar,
) -> Result<(), Stop> {
    let mut reader = response.into_body().into_reader();
    let mut have = start;
    let mut piece = vec![0; 1 << 16];
    bar.set_position(have);
    while have < bytes {
        let read = reader
            .read(&mut piece)
            .map_err(|error| Stop::Broken(error.into()))?;
        if read == 0 {
            return Err(Stop::Broken(anyhow!("the connection was closed")));
        }
        have += read as u64;
        if have > bytes {
            return Err(Stop::Final(anyhow!(
                "the file is longer than the {bytes} bytes listed"
            )));
        }
        file.write_all(&piece[..read]).map_err(Stop::here)?;
        bar.set_position(have);
    }
    file.sync_all().map_err(Stop::here)
}

fn length(target: &Target) -> u64 {
    fs::metadata(&target.partial).map_or(0, |metadata| metadata.len())
}

/// Start and total of `Content-Range: bytes START-END/TOTAL`.
fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let value = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}
