//! `pipe.json`: what a directory of `ringwal pipe` knows about its input. Written whole beside its place,
//! synced and renamed, once when a run begins and once when it ends in order.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

const NAME: &str = "pipe.json";
const VERSION: u32 = 1;
/// How much of a file is looked at before a point, and at its beginning.
pub(crate) const TAIL_LEN: u64 = 4096;

/// What is written down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    /// The directory's name for itself, by which a sink knows whose lines it holds.
    pub(crate) pipe: String,
    /// The run that wrote this: the last one that began.
    pub(crate) run: u32,
    /// What that run reads.
    pub(crate) source: Source,
    /// Where reading the file went on, or ended.
    pub(crate) point: Option<Point>,
    /// The file.
    pub(crate) file: Option<Identity>,
}

/// What a run reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// A file that can be read from where it ended.
    File,
    /// Standard input, or nothing.
    Other,
}

/// A place in the input between two lines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Where the next line begins.
    pub(crate) offset: u64,
    /// Number of the line before it.
    pub(crate) number: u64,
    /// What stands before it.
    pub(crate) tail: Tail,
}

/// A few bytes of a file, by length and hash.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tail {
    /// How many.
    pub(crate) len: u64,
    /// FNV-1a of them, in hexadecimal: JSON has no 64-bit numbers that every reader keeps.
    pub(crate) hash: String,
}

/// Which file it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Under which name it was last read.
    pub(crate) path: String,
    pub(crate) dev: u64,
    pub(crate) inode: u64,
    /// Its first bytes.
    pub(crate) head: Tail,
}

#[derive(Serialize, Deserialize)]
struct Versioned {
    version: u32,
    #[serde(flatten)]
    sidecar: Sidecar,
}

impl Tail {
    /// These bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
        Self { len: bytes.len() as u64, hash: format!("{hash:016x}") }
    }

    /// The end of a line as it stands in its file.
    pub(crate) fn of_line(text: &[u8], no_newline: bool) -> Self {
        let mut bytes = text[text.len().saturating_sub(TAIL_LEN as usize - 1)..].to_vec();
        if !no_newline {
            bytes.push(b'\n');
        }
        Self::of(&bytes)
    }
}

impl Sidecar {
    /// Of a directory that knows nothing yet.
    pub(crate) fn first() -> Self {
        let mut id = [0; 8];
        // It tells directories apart; without chance the clock has to do.
        if getrandom::fill(&mut id).is_err() {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            id = (now.as_nanos() as u64).to_le_bytes();
        }
        let pipe = format!("{:016x}", u64::from_le_bytes(id));
        Self { pipe, run: 0, source: Source::Other, point: None, file: None }
    }

    /// Where it lies.
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(NAME)
    }

    /// Reads it; `None` where there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = Self::path(dir);
        let refused = |why: String| {
            Failure::new(format!(
                "{} cannot be used ({why}); restore it from a copy, or remove it and begin anew with --restart",
                path.display()
            ))
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(error.to_string())),
        };
        let versioned: Versioned = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
        if versioned.version != VERSION {
            return Err(refused(format!("it has version {}, not {VERSION}", versioned.version)));
        }
        if let Some(why) = versioned.sidecar.contradiction() {
            return Err(refused(why.to_owned()));
        }
        Ok(Some(versioned.sidecar))
    }

    /// What no run of ours would have written down.
    fn contradiction(&self) -> Option<&'static str> {
        let Self { point, file, .. } = self;
        match () {
            () if point.as_ref().is_some_and(|point| point.tail.len > point.offset.min(TAIL_LEN)) => {
                Some("its point contradicts itself")
            }
            // Without a file to compare, a point would be believed of any input.
            () if point.is_some() && file.is_none() => Some("it has a point and no file"),
            () if file.as_ref().is_some_and(|file| file.head.len > TAIL_LEN) => Some("its file contradicts itself"),
            () => None,
        }
    }

    /// Writes it: all of it or nothing, and durable.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = Self::path(dir);
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec_pretty(&Versioned { version: VERSION, sidecar: self.clone() })?;
            let beside = dir.join(format!("{NAME}.new"));
            let mut file = File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| {
            Failure::new(format!("cannot write {}: {error}; free some space, and see who may write", path.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Sidecar::read(dir.path()).unwrap(), None);
        let mut sidecar = Sidecar::first();
        sidecar.write(dir.path()).unwrap();
        sidecar.run = 7;
        sidecar.source = Source::File;
        sidecar.point = Some(Point { offset: u64::MAX - 1, number: 3, tail: Tail::of(b"abc") });
        sidecar.file = Some(Identity { path: "in".to_owned(), dev: 1, inode: u64::MAX, head: Tail::of(b"x") });
        sidecar.write(dir.path()).unwrap();
        assert_eq!(Sidecar::read(dir.path()).unwrap(), Some(sidecar));
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_not_taken_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "{}", "{\"version\":2,\"pipe\":\"a\",\"run\":1,\"source\":\"file\"}"] {
            std::fs::write(Sidecar::path(dir.path()), bad).unwrap();
            assert!(Sidecar::read(dir.path()).unwrap_err().to_string().contains("pipe.json"), "{bad}");
        }
    }

    /// Found by the fuzz target `resume`: reading went on at 217 in an empty file, and a length was taken for
    /// memory to get.
    #[test]
    fn a_point_without_its_file_and_a_file_of_impossible_length_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |head| Some(Identity { path: "in".to_owned(), dev: 1, inode: 2, head });
        let point = Some(Point { offset: 217, number: 3, tail: Tail::default() });
        let beyond = Tail { len: u64::MAX, hash: String::new() };
        for (point, file, why) in [
            (point.clone(), None, "no file"),
            (point, file(beyond.clone()), "its file"),
            (Some(Point { offset: u64::MAX, number: 3, tail: beyond }), file(Tail::default()), "its point"),
        ] {
            Sidecar { point, file, ..Sidecar::first() }.write(dir.path()).unwrap();
            let refusal = Sidecar::read(dir.path()).unwrap_err().to_string();
            assert!(refusal.contains("pipe.json") && refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn directories_have_names_of_their_own() {
        assert_ne!(Sidecar::first().pipe, Sidecar::first().pipe);
    }
}
