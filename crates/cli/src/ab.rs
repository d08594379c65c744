//! `flametune ab`: people compare answers.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use flametune_eval::ab::{AbAnswer, AbItem, AbOptions, AbStore, app, read_items, serve};
use serde::Deserialize;

/// Let people compare answers, blind.
#[derive(Debug, Subcommand)]
pub(crate) enum Ab {
    Pairs(MakePairs),
    Serve(ServeVotes),
    Results(Results),
}

/// Put answers of two or more models together to pairs.
///
/// Each file has the columns id, prompt and answer; items of the same id are paired, every model with every other.
///
/// Example:
///
///   flametune ab pairs base=base.jsonl tuned=tuned.jsonl --output pairs.jsonl
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct MakePairs {
    /// Answers, as MODEL=FILE
    #[arg(required = true, num_args = 2.., value_name = "MODEL=FILE")]
    answers: Vec<String>,

    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// Open the application for raters.
///
/// Raters go to the address; results and export ask for the key, since they name the models.
///
/// Example:
///
///   flametune ab serve pairs.jsonl --database votes.sqlite --address 127.0.0.1:8080 --key see-results
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ServeVotes {
    /// Items with id, prompt, first and second, the last two with model and text; those that are there already stay
    items: Option<PathBuf>,

    /// Where votes are kept
    #[arg(long, default_value = "votes.sqlite", value_name = "FILE")]
    database: PathBuf,

    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    address: SocketAddr,

    /// What results and export ask for
    #[arg(long, value_name = "TEXT")]
    key: String,

    /// Heading of the pages
    #[arg(long, default_value = "Which answer is better?", value_name = "TEXT")]
    title: String,

    /// Seed of the sides; kept in the database from the first time on
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

/// Print results, or the votes themselves.
#[derive(Debug, Args)]
pub(crate) struct Results {
    /// Where votes are kept
    #[arg(default_value = "votes.sqlite", value_name = "DATABASE")]
    database: PathBuf,

    /// Print one vote a line instead of results
    #[arg(long)]
    export: bool,
}

#[derive(Debug, Deserialize)]
struct Answered {
    id: String,
    prompt: String,
    answer: String,
}

impl Ab {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Pairs(command) => command.run(),
            Self::Serve(command) => command.run(),
            Self::Results(command) => command.run(),
        }
    }
}

impl MakePairs {
    fn run(&self) -> Result<()> {
        let mut models = Vec::new();
        for named in &self.answers {
            let Some((model, file)) = named.split_once('=') else {
                bail!("expected MODEL=FILE, got {named}");
            };
            let answers: Vec<Answered> = crate::judge::read(file.as_ref())?;
            let by_id: BTreeMap<String, Answered> = answers
                .into_iter()
                .map(|answer| (answer.id.clone(), answer))
                .collect();
            models.push((model, by_id));
        }
        let mut lines = String::new();
        for (at, (first, answers)) in models.iter().enumerate() {
            for (second, others) in &models[at + 1..] {
                for (id, answer) in answers {
                    let Some(other) = others.get(id) else {
                        bail!("{second} has no answer to {id}");
                    };
                    if answer.prompt != other.prompt {
                        bail!("{first} and {second} were asked different things under {id}");
                    }
                    let item = pair(id, (first, answer), (second, other), models.len() > 2);
                    lines.push_str(&serde_json::to_string(&item)?);
                    lines.push('\n');
                }
            }
        }
        crate::eval::replace(&self.output, &lines)
    }
}

fn pair(id: &str, first: (&str, &Answered), second: (&str, &Answered), many: bool) -> AbItem {
    let answer = |(model, answered): (&str, &Answered)| AbAnswer {
        model: model.to_owned(),
        text: answered.answer.clone(),
    };
    AbItem {
        id: if many {
            format!("{id} {} {}", first.0, second.0)
        } else {
            id.to_owned()
        },
        prompt: first.1.prompt.clone(),
        first: answer(first),
        second: answer(second),
    }
}

impl ServeVotes {
    fn run(&self) -> Result<()> {
        let store = AbStore::open(&self.database, self.seed)?;
        if let Some(file) = &self.items {
            store.add_items(&read_items(file)?)?;
        }
        if store.items()?.is_empty() {
            bail!("there is nothing to compare: name a file of items");
        }
        let options = AbOptions {
            title: self.title.clone(),
            results_key: self.key.clone(),
        };
        let router = app(Arc::new(store), options);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(self.address)
                .await
                .with_context(|| format!("cannot listen on {}", self.address))?;
            let address = listener.local_addr()?;
            writeln!(io::stdout(), "raters: http://{address}/")?;
            writeln!(
                io::stdout(),
                "results: http://{address}/results?key={}",
                self.key
            )?;
            io::stdout().flush()?;
            let stop = async {
                // Without the signal there is nothing to wait for but the end of the process.
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            Ok(serve(listener, router, stop).await?)
        })
    }
}

impl Results {
    fn run(&self) -> Result<()> {
        if !self.database.is_file() {
            bail!("there is no database {}", self.database.display());
        }
        let store = AbStore::open(&self.database, 0)?;
        let mut out = io::stdout().lock();
        if self.export {
            write!(out, "{}", store.export()?)?;
        } else {
            writeln!(out, "{}", serde_json::to_string_pretty(&store.results()?)?)?;
        }
        Ok(())
    }
}
