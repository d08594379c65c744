//! `flametune gate`: an adapter is published when it meets declared rules.

mod live;
mod publish;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use flametune_eval::compare::{Gate, GateVerdict, comparison_table};

use crate::eval::{AdapterName, Loaded, ModelArgs, TaskArgs, comparisons, replace};

use live::{Live, Published};
use publish::Server;

/// Evaluate a candidate adapter against what is live, and publish it when it meets the rules.
///
/// The rules are a TOML file, see the guide on evaluation. With --server the candidate is loaded there under --name in
/// place of what is live, asked for one token, and what was live is put back if either fails.
///
/// Examples:
///
///   flametune gate runs/new --model ./my-model --rules gate.toml --against runs/old
///   flametune gate runs/new --model ./my-model --rules gate.toml --against live --server http://localhost:8000 --name helper
///   flametune gate --rollback --server http://localhost:8000 --name helper
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct GateCommand {
    /// The candidate's adapter folder
    #[arg(required_unless_present = "rollback")]
    candidate: Option<PathBuf>,

    /// What it is compared with: `base`, an adapter folder, or `live` for what was published last
    #[arg(long, default_value = "live", value_name = "base|live|FOLDER")]
    against: String,

    /// The rules
    #[arg(long, value_name = "FILE", required_unless_present = "rollback")]
    rules: Option<PathBuf>,

    /// Judge nothing: put back on the server what the last publication took the place of
    #[arg(long, requires = "server", conflicts_with_all = ["candidate", "rules"])]
    rollback: bool,

    /// The base model
    #[arg(long = "model", value_name = "MODEL", default_value = crate::model::DEFAULT_MODEL)]
    base: String,

    #[command(flatten)]
    tasks: TaskArgs,

    /// A running server to publish to; without it the rules are only judged
    #[arg(long, value_name = "URL", requires = "name")]
    server: Option<String>,

    /// The adapter's name on the server
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// The candidate's folder as the server knows it, where it is not the same
    #[arg(long, value_name = "PATH")]
    server_path: Option<String>,

    /// The environment variable that holds the server's key
    #[arg(long, value_name = "VARIABLE")]
    key_variable: Option<String>,

    /// Where it is written down what is live
    #[arg(long, default_value = "flametune-live.json", value_name = "FILE")]
    state: PathBuf,

    /// Write the verdict as JSON
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl GateCommand {
    pub(crate) fn run(&self) -> Result<()> {
        let live = Live::read(&self.state)?;
        let server = self.reach_server()?;
        let (Some(candidate), Some(rules)) = (&self.candidate, &self.rules) else {
            let server = server.context("--rollback needs --server")?;
            return self.put_back(&server, live);
        };
        let file = rules.display().to_string();
        let gate = read_rules(rules, &file)?;
        let against = self.against(&live)?;
        let mut names = self.tasks.tasks.clone();
        names.extend(gate.wanted_tasks());
        let selection = self.tasks.select(&names)?;
        let mut loaded = Loaded::open(&ModelArgs::named(&self.base)?, self.tasks.needs_template())?;
        let mut adapters = vec![AdapterName {
            name: "candidate".to_owned(),
            folder: candidate.clone(),
        }];
        adapters.extend(against.iter().map(|folder| AdapterName {
            name: "live".to_owned(),
            folder: folder.clone(),
        }));
        loaded.add_adapters(&adapters)?;
        let (first, first_name) = match against {
            Some(_) => (Some("live"), "live"),
            None => (None, "base"),
        };
        let mut evaluations = Vec::new();
        for (name, adapter) in [(first_name, first), ("candidate", Some("candidate"))] {
            let model = loaded.model(adapter)?;
            evaluations.push((
                name.to_owned(),
                self.tasks.evaluate(name, &model, &selection)?,
            ));
        }
        let comparison = comparisons(&evaluations)?
            .pop()
            .context("there is nothing to compare")?;
        let verdict = gate.judge(&file, &comparison)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{}\n", comparison_table(&comparison))?;
        print(&verdict, &mut out)?;
        if let Some(file) = &self.output {
            replace(file, &serde_json::to_string_pretty(&verdict)?)?;
        }
        if !verdict.passed {
            bail!("the candidate does not pass; nothing was published");
        }
        match &server {
            None => Ok(()),
            Some(server) => self.publish(server, candidate, live, &mut out),
        }
    }

    /// The server, which must answer before anything is evaluated for it.
    fn reach_server(&self) -> Result<Option<Server>> {
        let Some(url) = &self.server else {
            return Ok(None);
        };
        let key = match &self.key_variable {
            None => None,
            Some(variable) => Some(
                std::env::var(variable)
                    .with_context(|| format!("cannot read the variable {variable}"))?,
            ),
        };
        let server = Server::new(url, key);
        server.models()?;
        Ok(Some(server))
    }

    /// The folder of what the candidate is compared with; none for the base.
    fn against(&self, live: &Live) -> Result<Option<PathBuf>> {
        match self.against.as_str() {
            "base" => Ok(None),
            "live" => {
                let name = self.name.as_deref().unwrap_or_default();
                let known = live.adapter(self.server.as_deref().unwrap_or_default(), name);
                Ok(known.map(|adapter| adapter.place.folder.clone()))
            }
            folder if Path::new(folder).is_dir() => Ok(Some(folder.into())),
            other => bail!("--against must be `base`, `live` or an adapter folder, got {other}"),
        }
    }

    /// Names the adapter on the server.
    fn place(&self) -> (&str, &str) {
        let (server, name) = (&self.server, &self.name);
        (
            server.as_deref().unwrap_or_default(),
            name.as_deref().unwrap_or_default(),
        )
    }

    fn publish(
        &self,
        server: &Server,
        candidate: &Path,
        mut live: Live,
        out: &mut impl Write,
    ) -> Result<()> {
        let (url, name) = self.place();
        let folder = candidate
            .canonicalize()
            .with_context(|| format!("cannot find {}", candidate.display()))?;
        let server_path = self
            .server_path
            .clone()
            .unwrap_or_else(|| folder.display().to_string());
        let before = live
            .adapter(url, name)
            .map(|adapter| adapter.place.server_path.clone());
        server.publish(name, &server_path, before.as_deref())?;
        live.set(
            url,
            name,
            Published {
                folder,
                server_path,
            },
        );
        live.write(&self.state)?;
        writeln!(out, "published as {name} on {url}")?;
        Ok(())
    }

    /// Puts back what the last publication took the place of, or takes the adapter off the server.
    fn put_back(&self, server: &Server, mut live: Live) -> Result<()> {
        let (url, name) = self.place();
        let now = live
            .adapter(url, name)
            .with_context(|| format!("{} names no {name} on {url}", self.state.display()))?;
        let said = match &now.before {
            Some(before) => {
                let now = now.place.server_path.as_str();
                server.publish(name, &before.server_path, Some(now))?;
                format!("{name} on {url} is {} again", before.folder.display())
            }
            None => {
                server.unload(name)?;
                format!(
                    "{name} is no longer on {url}: nothing is written down that was there before"
                )
            }
        };
        live.put_back(url, name);
        live.write(&self.state)?;
        writeln!(io::stdout(), "{said}")?;
        Ok(())
    }
}

fn read_rules(rules: &Path, file: &str) -> Result<Gate> {
    let text = fs::read_to_string(rules).with_context(|| format!("cannot read {file}"))?;
    let gate: Gate = toml::from_str(&text).with_context(|| format!("{file} holds no rules"))?;
    gate.validate(file)?;
    Ok(gate)
}

fn print(verdict: &GateVerdict, out: &mut impl Write) -> io::Result<()> {
    for check in &verdict.checks {
        let word = if check.passed { "pass" } else { "FAIL" };
        writeln!(
            out,
            "{word}  {} {}: {}",
            check.task, check.metric, check.finding
        )?;
    }
    writeln!(
        out,
        "{}",
        if verdict.passed {
            "the gate is open"
        } else {
            "the gate is closed"
        }
    )
}
