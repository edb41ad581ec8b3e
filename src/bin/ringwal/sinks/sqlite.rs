//! Rows in SQLite: a line is there exactly once, because its LSN is committed with it.
//!
//! ```text
//!   lines             lsn INTEGER PRIMARY KEY, line TEXT (BLOB where it is no UTF-8 or holds a zero)
//!   ringwal_progress  one row: whose lines, last LSN, and where in which run the last line was read
//! ```
//! Every transaction first reads the last LSN, leaves out what is not above it, and writes rows and new
//! last LSN together. So it does not matter whether a batch comes again because the process died, because
//! a commit failed in an unknown way, or because the cursor was behind: `committed()` tells the queue, and
//! the transaction itself looks once more.
//!
//! With `--durability memory` LSNs begin anew with each run; they are stored above those that are there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringwal::{Batch, Lsn, Outcome};
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use super::{Deliver, lines};
use crate::failure::{Failure, Result};
use crate::line::Line;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS lines (lsn INTEGER PRIMARY KEY, line TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS ringwal_progress (
        id INTEGER PRIMARY KEY CHECK (id = 1), pipe TEXT NOT NULL, lsn INTEGER NOT NULL,
        run INTEGER NOT NULL, \"offset\" INTEGER NOT NULL, number INTEGER NOT NULL);
";

/// What is stored together with the lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Progress {
    /// Whose lines: the name of a queue's directory, given to it by its first run.
    pub(crate) pipe: String,
    /// The last LSN.
    pub(crate) lsn: u64,
    /// The run that read the last line.
    pub(crate) run: u32,
    /// Where in the input the line behind it begins.
    pub(crate) offset: u64,
    /// Its number.
    pub(crate) number: u64,
}

/// How long opening waits for others to let go of the database: nobody would try again.
const OPEN_WAIT: Duration = Duration::from_secs(30);
/// How long an attempt waits inside SQLite, where that waits, and how long it is until the next.
const OPEN_PAUSE: Duration = Duration::from_millis(20);
const DELIVER_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Sqlite {
    file: PathBuf,
    connection: Connection,
    progress: Option<Progress>,
    /// What is added to an LSN to store it; 0 unless LSNs begin anew with each run.
    base: u64,
    memory: bool,
}

impl Sqlite {
    pub(super) fn open(file: &Path) -> Result<Self> {
        let fail = |error: rusqlite::Error| {
            let advice = if is_busy(&error) {
                "see whether another program holds it"
            } else {
                "give the file of a SQLite database, or a new name"
            };
            Failure::new(format!("cannot use {} as a database: {error}; {advice}", file.display()))
        };
        let connection = Connection::open(file).map_err(fail)?;
        let begun = Instant::now();
        connection.busy_timeout(OPEN_PAUSE).map_err(fail)?;
        let progress = loop {
            match set_up(&connection) {
                Err(error) if is_busy(&error) && begun.elapsed() < OPEN_WAIT => std::thread::sleep(OPEN_PAUSE),
                result => break result.map_err(fail)?,
            }
        };
        connection.busy_timeout(OPEN_WAIT).map_err(fail)?;
        Ok(Self { file: file.to_owned(), connection, progress, base: 0, memory: false })
    }

    fn store(&mut self, batch: &Batch<Line>) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut progress = read_progress(&transaction)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            for (lsn, head, text) in lines(batch) {
                let lsn = self.base + lsn.number();
                if lsn <= progress.lsn {
                    continue;
                }
                match std::str::from_utf8(text) {
                    Ok(text) if !text.contains('\0') => insert.execute(params![integer(lsn), text])?,
                    _ => insert.execute(params![integer(lsn), text])?,
                };
                progress.lsn = lsn;
                if (head.run, head.offset) > (progress.run, progress.offset) {
                    (progress.run, progress.offset, progress.number) = (head.run, head.offset, head.number);
                }
            }
        }
        write_progress(&transaction, &progress)?;
        transaction.commit()?;
        self.progress = Some(progress);
        Ok(())
    }
}

impl Deliver for Sqlite {
    fn deliver(&mut self, batch: &Batch<Line>) -> Outcome {
        match self.store(batch) {
            Ok(()) => Outcome::ack(),
            Err(error) => Outcome::retry(format!("{}: {error}", self.file.display())),
        }
    }

    fn progress(&self) -> Option<Progress> {
        self.progress.clone()
    }

    fn adopt(&mut self, pipe: &str, memory: bool) -> Result<()> {
        let old = self.progress.as_ref();
        let lsn = old.map_or(0, |progress| progress.lsn);
        let progress = match old.filter(|progress| progress.pipe == pipe) {
            Some(ours) => ours.clone(),
            None => Progress { pipe: pipe.to_owned(), lsn, run: 0, offset: 0, number: 0 },
        };
        write_progress(&self.connection, &progress).map_err(|error| {
            Failure::new(format!(
                "cannot write to {}: {error}; see whether another program holds it",
                self.file.display()
            ))
        })?;
        // A batch that has to wait longer comes again.
        let _ = self.connection.busy_timeout(DELIVER_WAIT);
        self.memory = memory;
        self.base = if memory { lsn } else { 0 };
        self.progress = Some(progress);
        Ok(())
    }

    fn committed(&self) -> Option<Lsn> {
        let stored = self.progress.as_ref().map(|progress| Lsn::new(progress.lsn));
        stored.filter(|lsn| !self.memory && *lsn > Lsn::ZERO)
    }
}

/// Can be done again from its beginning, and has to be while others hold the database: SQLite does not wait for them
/// where it already reads, as it does when it is about to change the journal's mode.
fn set_up(connection: &Connection) -> rusqlite::Result<Option<Progress>> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: in WAL mode too, every commit is synced before it returns.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(SCHEMA)?;
    // Tables of these names that are not ours are found out now, not at the first batch.
    connection.prepare_cached(INSERT)?;
    read_progress(connection)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

const INSERT: &str = "INSERT INTO lines (lsn, line) VALUES (?1, ?2)";

fn read_progress(connection: &Connection) -> rusqlite::Result<Option<Progress>> {
    let mut select = connection.prepare_cached("SELECT pipe, lsn, run, \"offset\", number FROM ringwal_progress")?;
    let row = select.query_row([], |row| {
        Ok(Progress {
            pipe: row.get(0)?,
            lsn: row.get::<_, i64>(1)?.cast_unsigned(),
            run: row.get(2)?,
            offset: row.get::<_, i64>(3)?.cast_unsigned(),
            number: row.get::<_, i64>(4)?.cast_unsigned(),
        })
    });
    row.optional()
}

fn write_progress(connection: &Connection, progress: &Progress) -> rusqlite::Result<()> {
    let mut replace = connection.prepare_cached(
        "INSERT INTO ringwal_progress (id, pipe, lsn, run, \"offset\", number) VALUES (1, ?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET pipe = ?1, lsn = ?2, run = ?3, \"offset\" = ?4, number = ?5",
    )?;
    let Progress { pipe, lsn, run, offset, number } = progress;
    replace.execute(params![pipe, integer(*lsn), run, integer(*offset), integer(*number)])?;
    Ok(())
}

/// SQLite's integers have a sign; LSNs and offsets never get that far.
fn integer(number: u64) -> i64 {
    number.cast_signed()
}
