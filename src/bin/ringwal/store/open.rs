//! Opens a queue's directory for reading, and says what is wrong with one that cannot be.

use std::path::Path;
use std::time::Duration;

use ringwal::io::{Io, IoConfig, IoOpenError};
use ringwal::wal::block::Pool;
use ringwal::wal::coding::features;
use ringwal::wal::meta::{Meta, MetaError};
use ringwal::wal::segment::FORMAT_MAJOR;

use super::Store;
use crate::failure::{Failure, Result};

/// How a directory is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Beside whoever has it open: no lock, nothing created, nothing written.
    Beside,
    /// Alone: creates the directory where it is missing, and waits at most so long for its lock. Still
    /// nothing but the lock is written.
    Alone(Duration),
}

/// Longest header of META that is read to learn the sizes.
pub(crate) const META_READ_LEN: usize = 128 << 10;
/// How often META is read again before it is called unreadable, and how long between.
const META_TRIES: u32 = 5;
const META_PAUSE: Duration = Duration::from_millis(2);
const CHUNKS: u32 = 12;
const CHUNK_LEN_MIN: usize = 1 << 20;

impl Store {
    /// Opens `dir`.
    pub(crate) fn open(dir: &Path, access: Access) -> Result<Self> {
        let (alone, lock_wait) = match access {
            Access::Beside => (false, Duration::ZERO),
            Access::Alone(wait) => (true, wait),
        };
        let config = IoConfig { choice: Io::Threads, lock_wait, create: alone, read_only: !alone };
        let opened = ringwal::io::open(dir, config).map_err(|error| opening_failed(&error))?;
        let meta = read_meta_beside(dir)?;
        if meta.is_none() && !alone {
            return Err(not_a_queue(dir));
        }
        let frame_len_max = meta.as_ref().map_or(0, |meta| meta.frame_len_max as usize + meta.block_len as usize);
        // A frame of the park log is longer than the entry's by the reason it was parked for.
        let chunk_len = (frame_len_max + (64 << 10)).max(CHUNK_LEN_MIN).next_multiple_of(64 << 10);
        let pool = Pool::new(CHUNKS, chunk_len).map_err(|error| {
            Failure::new(format!("cannot get {} MiB of memory: {error}", (CHUNKS as usize * chunk_len) >> 20))
        })?;
        let disk = opened.into_disk(&pool).map_err(|error| opening_failed(&error))?;
        let segment_len = meta.map_or(0, |meta| meta.segment_len);
        Ok(Self { dir: dir.to_owned(), segment_len, disk, pool, tokens: 0 })
    }
}

/// META, read again where it cannot be read: a queue may be writing one of its copies, then the other.
fn read_meta_beside(dir: &Path) -> Result<Option<Meta>> {
    let mut meta = read_meta(dir);
    for _ in 0..META_TRIES {
        if meta.is_ok() {
            break;
        }
        std::thread::sleep(META_PAUSE);
        meta = read_meta(dir);
    }
    meta
}

/// META, if there is one; told apart from what cannot be read.
fn read_meta(dir: &Path) -> Result<Option<Meta>> {
    let path = dir.join("META");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let has_segments = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let has_segments = has_segments.into_iter().any(|file| is_segment(&file.file_name().to_string_lossy()));
            if has_segments {
                return Err(Failure::usage(format!(
                    "{} is missing, although there are segments; restore it from a copy",
                    path.display()
                )));
            }
            return Ok(None);
        }
        Err(error) => return Err(Failure::usage(format!("cannot read {}: {error}; see who may", path.display()))),
    };
    match Meta::read(&bytes[..bytes.len().min(META_READ_LEN)]) {
        Ok(meta) => Ok(Some(meta)),
        Err(MetaError::Newer { major, features }) => Err(newer_format(&path, major, features)),
        Err(MetaError::Unreadable) if bytes.iter().all(|byte| *byte == 0) => Ok(None),
        Err(MetaError::Unreadable) => Err(Failure::usage(format!(
            "{} cannot be read: neither of its two copies checks out; restore it from a copy",
            path.display()
        ))),
    }
}

/// META is of a version that is not known here.
pub(crate) fn newer_format(path: &Path, major: u16, features: u64) -> Failure {
    Failure::usage(format!(
        "{} has format {major}{}, this version of ringwal reads up to {FORMAT_MAJOR}; \
         use the version that wrote it, or a later one",
        path.display(),
        match features {
            0 => String::new(),
            bits => format!(" with {}", features::names(bits)),
        }
    ))
}

fn is_segment(name: &str) -> bool {
    name.starts_with("seg-") && name.ends_with(".rwal")
}

fn not_a_queue(dir: &Path) -> Failure {
    Failure::usage(format!(
        "{} is not the directory of a queue: there is no META in it; give the directory of a queue",
        dir.display()
    ))
}

/// A directory that could not be opened.
pub(crate) fn opening_failed(error: &IoOpenError) -> Failure {
    let text = error.to_string();
    match error {
        IoOpenError::Locked { .. } => Failure::new(text),
        IoOpenError::Missing { path } => {
            Failure::usage(format!("{} does not exist; give the directory of a queue", path.display()))
        }
        _ => Failure::usage(text),
    }
}
