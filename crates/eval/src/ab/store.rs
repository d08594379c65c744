//! Items and votes in SQLite.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::stats::{Outcome, draw};

/// An answer and the model it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbAnswer {
    /// The model; raters do not see it.
    pub model: String,
    /// The text.
    pub text: String,
}

/// Two answers to one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbItem {
    /// Names the item.
    pub id: String,
    /// The question.
    pub prompt: String,
    /// One answer.
    pub first: AbAnswer,
    /// The other.
    pub second: AbAnswer,
}

/// A side of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The answer on the left.
    Left,
    /// The answer on the right.
    Right,
    /// Neither.
    Tie,
}

/// What a rater said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vote {
    /// The item.
    pub item: String,
    /// The rater.
    pub rater: String,
    /// Who won, in terms of the item's answers.
    pub outcome: Outcome,
    /// Which answer was on the left.
    pub left: Outcome,
    /// A remark of the rater.
    pub comment: String,
}

/// Which answer a rater sees on the left: drawn from the seed, the item and the rater.
#[must_use]
pub fn shown_left(seed: u64, item: &str, rater: &str) -> Outcome {
    if draw(seed, &format!("{item}\u{1f}{rater}"), 0, 0) >> 63 == 0 {
        Outcome::First
    } else {
        Outcome::Second
    }
}

/// The database of one comparison.
#[derive(Debug)]
pub struct AbStore {
    connection: Mutex<Connection>,
    seed: u64,
}

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    CREATE TABLE IF NOT EXISTS item (
        id TEXT PRIMARY KEY, place INTEGER NOT NULL, prompt TEXT NOT NULL,
        first_model TEXT NOT NULL, first_text TEXT NOT NULL,
        second_model TEXT NOT NULL, second_text TEXT NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS vote (
        item TEXT NOT NULL REFERENCES item(id), rater TEXT NOT NULL,
        outcome TEXT NOT NULL, shown_left TEXT NOT NULL, comment TEXT NOT NULL,
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        UNIQUE (item, rater)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
";

impl AbStore {
    /// Opens a database, or makes one; the seed of the sides is kept in it from the first time on.
    ///
    /// # Errors
    /// [`Error::Database`], also for a file that is no such database.
    pub fn open(path: &Path, seed: u64) -> Result<Self> {
        let connection = Connection::open(path)
            .map_err(Error::database(format!("opening {}", path.display())))?;
        Self::with(connection, seed)
    }

    /// A database that is gone when it is dropped.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn in_memory(seed: u64) -> Result<Self> {
        let connection = Connection::open_in_memory()
            .map_err(Error::database("opening a database in memory"))?;
        Self::with(connection, seed)
    }

    fn with(connection: Connection, seed: u64) -> Result<Self> {
        let what = Error::database("preparing the database");
        let prepare = || -> rusqlite::Result<u64> {
            connection.busy_timeout(std::time::Duration::from_secs(5))?;
            connection.execute_batch(SCHEMA)?;
            connection.execute(
                "INSERT OR IGNORE INTO setting VALUES ('seed', ?1)",
                [seed.to_string()],
            )?;
            let kept: String = connection.query_row(
                "SELECT value FROM setting WHERE name = 'seed'",
                [],
                |row| row.get(0),
            )?;
            Ok(kept.parse().unwrap_or(seed))
        };
        let seed = prepare().map_err(what)?;
        Ok(Self {
            connection: Mutex::new(connection),
            seed,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A transaction that panicked was rolled back, so the connection is whole.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds items, all or none; one that is there already must be the same.
    ///
    /// # Errors
    /// [`Error::Input`] for an item that differs from the stored one, [`Error::Database`].
    pub fn add_items(&self, items: &[AbItem]) -> Result<usize> {
        let mut connection = self.lock();
        let what = || Error::database("adding items");
        let transaction = connection.transaction().map_err(what())?;
        let mut added = 0;
        for (index, item) in items.iter().enumerate() {
            match find(&transaction, &item.id).map_err(what())? {
                Some(stored) if stored == *item => continue,
                Some(_) => {
                    return Err(Error::Input {
                        file: "items".to_owned(),
                        line: index as u64 + 1,
                        reason: format!("item {:?} is in the database with other texts", item.id),
                    });
                }
                None => {}
            }
            transaction
                .execute(
                    "INSERT INTO item VALUES (?1, (SELECT COUNT(*) FROM item), ?2, ?3, ?4, ?5, ?6)",
                    params![
                        item.id,
                        item.prompt,
                        item.first.model,
                        item.first.text,
                        item.second.model,
                        item.second.text
                    ],
                )
                .map_err(what())?;
            added += 1;
        }
        transaction.commit().map_err(what())?;
        Ok(added)
    }

    /// An item by name.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn item(&self, id: &str) -> Result<Option<AbItem>> {
        find(&self.lock(), id).map_err(Error::database("reading an item"))
    }

    /// All items, in the order they were added.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn items(&self) -> Result<Vec<AbItem>> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<AbItem>> {
            connection
                .prepare("SELECT id, prompt, first_model, first_text, second_model, second_text FROM item ORDER BY place")?
                .query_map([], item_of)?
                .collect()
        };
        read().map_err(Error::database("reading the items"))
    }

    /// The next item that a rater has not voted on, in an order of the rater's own.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn next_item(&self, rater: &str) -> Result<Option<AbItem>> {
        let open: Vec<String> = {
            let connection = self.lock();
            let read = || -> rusqlite::Result<Vec<String>> {
                connection
                    .prepare("SELECT id FROM item WHERE id NOT IN (SELECT item FROM vote WHERE rater = ?1)")?
                    .query_map([rater], |row| row.get(0))?
                    .collect()
            };
            read().map_err(Error::database("looking for the next item"))?
        };
        let order = |id: &String| draw(self.seed, &format!("order\u{1f}{id}\u{1f}{rater}"), 0, 0);
        match open.iter().min_by_key(|id| (order(id), (*id).clone())) {
            None => Ok(None),
            Some(id) => self.item(id),
        }
    }

    /// How many items a rater has voted on, and how many there are.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn progress(&self, rater: &str) -> Result<(usize, usize)> {
        let connection = self.lock();
        let count = |sql: &str, of: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<usize> {
            let count: i64 = connection.query_row(sql, of, |row| row.get(0))?;
            Ok(usize::try_from(count).unwrap_or(0))
        };
        let read = || -> rusqlite::Result<(usize, usize)> {
            Ok((
                count("SELECT COUNT(*) FROM vote WHERE rater = ?1", &[&rater])?,
                count("SELECT COUNT(*) FROM item", &[])?,
            ))
        };
        read().map_err(Error::database("counting votes"))
    }

    /// Which answer a rater sees on the left.
    #[must_use]
    pub fn left_for(&self, item: &str, rater: &str) -> Outcome {
        shown_left(self.seed, item, rater)
    }

    /// Records a vote, in place of an earlier one of the same rater on the same item.
    ///
    /// # Errors
    /// [`Error::Input`] for an item that is not there, [`Error::Database`].
    pub fn vote(&self, item: &str, rater: &str, side: Side, comment: &str) -> Result<Vote> {
        let left = self.left_for(item, rater);
        let outcome = match (side, left) {
            (Side::Tie, _) => Outcome::Tie,
            (Side::Left, left) => left,
            (Side::Right, Outcome::First) => Outcome::Second,
            (Side::Right, _) => Outcome::First,
        };
        if self.item(item)?.is_none() {
            return Err(Error::Input {
                file: "vote".to_owned(),
                line: 1,
                reason: format!("there is no item {item:?}"),
            });
        }
        self.lock()
            .execute(
                "INSERT INTO vote (item, rater, outcome, shown_left, comment) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT (item, rater) DO UPDATE SET outcome = excluded.outcome, comment = excluded.comment",
                params![item, rater, name(outcome), name(left), comment],
            )
            .map_err(Error::database("recording a vote"))?;
        Ok(Vote {
            item: item.to_owned(),
            rater: rater.to_owned(),
            outcome,
            left,
            comment: comment.to_owned(),
        })
    }

    /// Takes a rater's last vote back, and tells on which item it was.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn undo(&self, rater: &str) -> Result<Option<String>> {
        let mut connection = self.lock();
        let undo = |connection: &mut Connection| -> rusqlite::Result<Option<String>> {
            let transaction = connection.transaction()?;
            let last: Option<(i64, String)> = transaction
                .query_row(
                    "SELECT sequence, item FROM vote WHERE rater = ?1 ORDER BY sequence DESC LIMIT 1",
                    [rater],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            if let Some((sequence, _)) = &last {
                transaction.execute("DELETE FROM vote WHERE sequence = ?1", [sequence])?;
            }
            transaction.commit()?;
            Ok(last.map(|(_, item)| item))
        };
        undo(&mut connection).map_err(Error::database("taking a vote back"))
    }

    /// All votes, in the order they came.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn votes(&self) -> Result<Vec<Vote>> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<Vote>> {
            connection
                .prepare(
                    "SELECT item, rater, outcome, shown_left, comment FROM vote ORDER BY sequence",
                )?
                .query_map([], |row| {
                    Ok(Vote {
                        item: row.get(0)?,
                        rater: row.get(1)?,
                        outcome: outcome(&row.get::<_, String>(2)?),
                        left: outcome(&row.get::<_, String>(3)?),
                        comment: row.get(4)?,
                    })
                })?
                .collect()
        };
        read().map_err(Error::database("reading the votes"))
    }

    /// Votes by item: item to rater to outcome.
    pub(super) fn by_item(votes: &[Vote]) -> BTreeMap<&str, BTreeMap<&str, Outcome>> {
        let mut items: BTreeMap<&str, BTreeMap<&str, Outcome>> = BTreeMap::new();
        for vote in votes {
            items
                .entry(&vote.item)
                .or_default()
                .insert(&vote.rater, vote.outcome);
        }
        items
    }
}

fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<AbItem>> {
    connection
        .query_row(
            "SELECT id, prompt, first_model, first_text, second_model, second_text FROM item WHERE id = ?1",
            [id],
            item_of,
        )
        .optional()
}

fn item_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<AbItem> {
    Ok(AbItem {
        id: row.get(0)?,
        prompt: row.get(1)?,
        first: AbAnswer {
            model: row.get(2)?,
            text: row.get(3)?,
        },
        second: AbAnswer {
            model: row.get(4)?,
            text: row.get(5)?,
        },
    })
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::First => "first",
        Outcome::Second => "second",
        Outcome::Tie => "tie",
    }
}

fn outcome(name: &str) -> Outcome {
    match name {
        "first" => Outcome::First,
        "second" => Outcome::Second,
        _ => Outcome::Tie,
    }
}

/// Reads items from a file of JSON lines.
///
/// # Errors
/// [`Error::Text`] for a file that cannot be read, [`Error::Input`] for a line that is no item or repeats one.
pub fn read_items(path: &Path) -> Result<Vec<AbItem>> {
    let mut items: Vec<AbItem> = Vec::new();
    let file = path.display().to_string();
    for record in flametune_data::open_records(path, &flametune_data::ReadOptions::default(), 0)? {
        let record = record?;
        let refuse = |reason: String| Error::Input {
            file: file.clone(),
            line: record.at.line.unwrap_or(record.at.record),
            reason,
        };
        let item: AbItem = serde_json::from_value(record.row.clone().into())
            .map_err(|error| refuse(error.to_string()))?;
        if items.iter().any(|other| other.id == item.id) {
            return Err(refuse(format!("item {:?} is there twice", item.id)));
        }
        items.push(item);
    }
    Ok(items)
}
