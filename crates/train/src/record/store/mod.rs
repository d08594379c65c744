//! A store of many runs: one SQLite file.

mod compare;
mod observer;
mod rows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::{RunDescription, Status, io};
use crate::error::{Error, Result};

pub use compare::Comparison;
pub(crate) use compare::flatten;
pub use observer::StoreObserver;
pub use rows::{RunDetails, RunList, RunRow};

/// The schema, as SQLite's `user_version`.
const VERSION: i64 = 1;

const SCHEMA: &str = "
create table runs (
    id integer primary key autoincrement,
    name text not null,
    folder text not null,
    started real not null,
    finished real,
    status text not null,
    steps integer not null default 0,
    model text not null,
    data_digest text not null,
    description text not null,
    final text not null default '{}'
) strict;
create table metrics (
    run integer not null references runs(id) on delete cascade,
    name text not null,
    step integer not null,
    value real,
    primary key (run, name, step)
) strict, without rowid;
create index runs_by_name on runs(name);
";

/// How long another program may hold the store.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs that an error names.
const NAMED: usize = 10;

/// Runs with their settings and numbers.
///
/// ```text
/// runs     id, name, folder, started, finished, status, steps, model, data_digest,
///          description (JSON), final (JSON: metric to value)
/// metrics  run, name, step, value
/// ```
///
/// # Examples
/// ```
/// use flametune_train::record::{RunDescription, RunStore, Status};
///
/// let folder = tempfile::tempdir()?;
/// let store = RunStore::open(&folder.path().join("runs.db"))?;
/// let run = RunDescription { name: "first".to_owned(), ..RunDescription::default() };
/// let id = store.start(&run, 0.0)?;
/// store.finish(id, Status::Finished, 100, 60.0, &[("eval/loss".to_owned(), 1.25)].into())?;
/// assert_eq!(store.show("first")?.metrics["eval/loss"], 1.25);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RunStore {
    path: PathBuf,
    connection: Connection,
}

impl RunStore {
    /// Opens the store, or makes it with the folders on the way.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Store`] for a file that is no store, [`Error::StoreVersion`].
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io(folder))?;
        }
        let at = |source| Error::Store {
            path: path.to_owned(),
            source,
        };
        let mut connection = Connection::open(path).map_err(at)?;
        let version = prepare(&mut connection).map_err(at)?;
        if version != VERSION {
            return Err(Error::StoreVersion {
                path: path.to_owned(),
                expected: VERSION,
                got: version,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            connection,
        })
    }

    /// Says which file an error is of.
    fn at(&self) -> impl Fn(rusqlite::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Store {
            path: path.clone(),
            source,
        }
    }

    /// Enters a run; its number. An earlier one in the same folder that never said how it ended was
    /// interrupted.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn start(&self, run: &RunDescription, time: f64) -> Result<i64> {
        let sql = "update runs set status = ? where folder = ? and status = ?";
        let (running, ended) = (Status::Running.as_str(), Status::Interrupted.as_str());
        self.connection
            .execute(sql, params![ended, run.folder, running])
            .map_err(self.at())?;
        let sql =
            "insert into runs (name, folder, started, status, model, data_digest, description)
                   values (?, ?, ?, ?, ?, ?, ?)";
        let status = Status::Running.as_str();
        let description = self.json(run)?;
        let values = params![
            run.name,
            run.folder,
            time,
            status,
            run.model.name,
            run.data.digest,
            description
        ];
        self.connection.execute(sql, values).map_err(self.at())?;
        Ok(self.connection.last_insert_rowid())
    }

    /// Adds numbers of a run, each a name, a step and a value; what is there already is replaced.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn add_metrics(&mut self, run: i64, rows: &[(String, usize, f64)]) -> Result<()> {
        let at = self.at();
        let transaction = self.connection.transaction().map_err(&at)?;
        {
            let sql = "insert or replace into metrics (run, name, step, value) values (?, ?, ?, ?)";
            let mut insert = transaction.prepare(sql).map_err(&at)?;
            for (name, step, value) in rows {
                // NaN becomes null.
                insert
                    .execute(params![run, name, signed(*step), value])
                    .map_err(&at)?;
            }
        }
        transaction.commit().map_err(at)
    }

    /// Enters how a run ended, with its final numbers.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn finish(
        &self,
        run: i64,
        status: Status,
        steps: usize,
        time: f64,
        metrics: &BTreeMap<String, f64>,
    ) -> Result<()> {
        let sql = "update runs set finished = ?, status = ?, steps = ?, final = ? where id = ?";
        let metrics = self.json(metrics)?;
        let values = params![time, status.as_str(), signed(steps), metrics, run];
        self.connection.execute(sql, values).map_err(self.at())?;
        Ok(())
    }

    /// The latest run of a folder goes on after `step`; its number, if there is one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn reopen(&self, folder: &str, step: usize) -> Result<Option<i64>> {
        let sql = "update runs set status = ?, finished = null
                   where id = (select max(id) from runs where folder = ?) returning id";
        let mut update = self.connection.prepare(sql).map_err(self.at())?;
        let values = params![Status::Running.as_str(), folder];
        let mut ids = update
            .query_map(values, |row| row.get(0))
            .map_err(self.at())?;
        let Some(id) = ids.next() else {
            return Ok(None);
        };
        let id: i64 = id.map_err(self.at())?;
        let sql = "delete from metrics where run = ? and step > ?";
        let deleted = self.connection.execute(sql, params![id, signed(step)]);
        deleted.map_err(self.at())?;
        Ok(Some(id))
    }

    /// All runs, the latest first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn list(&self) -> Result<RunList> {
        let sql = "select id, name, started, finished, status, steps, model, final
                   from runs order by id desc";
        let mut select = self.connection.prepare(sql).map_err(self.at())?;
        let runs = select.query_map([], RunRow::read).map_err(self.at())?;
        let runs: rusqlite::Result<_> = runs.collect();
        Ok(RunList {
            runs: runs.map_err(self.at())?,
        })
    }

    /// A run by its number or its name; of several with that name, the latest.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::Store`].
    pub fn show(&self, run: &str) -> Result<RunDetails> {
        let sql = "select id, name, started, finished, status, steps, model, final, description
                   from runs where name = ?1 or id = ?2 order by name = ?1 desc, id desc limit 1";
        let id = run.parse::<i64>().ok();
        let mut select = self.connection.prepare(sql).map_err(self.at())?;
        let read = |row: &Row<'_>| {
            let metrics: BTreeMap<String, Option<f64>> = json(row, "final")?;
            Ok(RunDetails {
                metrics: metrics
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)))
                    .collect(),
                description: json(row, "description")?,
                run: RunRow::read(row)?,
            })
        };
        let mut found = select
            .query_map(params![run, id], read)
            .map_err(self.at())?;
        match found.next() {
            Some(run) => run.map_err(self.at()),
            None => Err(Error::UnknownRun {
                name: run.to_owned(),
                known: self.names()?,
            }),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        let runs = self.list()?.runs.into_iter().take(NAMED);
        Ok(runs
            .map(|run| format!("{} ({})", run.name, run.id))
            .collect())
    }

    /// The values of a metric by step.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn metric(&self, run: i64, name: &str) -> Result<Vec<(usize, f64)>> {
        let sql = "select step, value from metrics where run = ? and name = ? order by step";
        let mut select = self.connection.prepare(sql).map_err(self.at())?;
        let point = |row: &Row<'_>| {
            let step: i64 = row.get(0)?;
            let value: Option<f64> = row.get(1)?;
            Ok((
                usize::try_from(step).unwrap_or(0),
                value.unwrap_or(f64::NAN),
            ))
        };
        let points = select.query_map(params![run, name], point);
        let points: rusqlite::Result<_> = points.map_err(self.at())?.collect();
        points.map_err(self.at())
    }

    /// Runs side by side: the settings that differ, and the final numbers.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::Store`].
    pub fn compare(&self, runs: &[&str]) -> Result<Comparison> {
        let runs: Result<Vec<RunDetails>> = runs.iter().map(|run| self.show(run)).collect();
        Ok(Comparison::of(&runs?))
    }

    fn json<T: serde::Serialize>(&self, value: &T) -> Result<String> {
        let text = serde_json::to_string(value);
        text.map_err(|error| self.at()(rusqlite::Error::ToSqlConversionFailure(error.into())))
    }
}

/// Makes tables in a new file; the schema of the file.
fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Immediate, so that of two programs one waits instead of making the tables as well.
    let behavior = rusqlite::TransactionBehavior::Immediate;
    let transaction = connection.transaction_with_behavior(behavior)?;
    let version = |t: &Connection| t.pragma_query_value(None, "user_version", |row| row.get(0));
    let tables = "select count(*) from sqlite_schema";
    let tables: i64 = transaction.query_row(tables, [], |row| row.get(0))?;
    if tables == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    let version = version(&transaction)?;
    transaction.commit()?;
    Ok(version)
}

/// A column of JSON text.
fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(0, kind, error.into())
    })
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
