//! A look at META before anything is opened for real: the memory pool must fit the frames of a store
//! that is there already, and the pool comes before the disk.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::wal::meta::Meta;
use crate::wal::segment::BLOCK_LEN_MAX;

/// Longest part of META in which both copies of the description lie.
const LOOK_LEN: u64 = BLOCK_LEN_MAX as u64 + 4096;

/// The store's description, if there is a store and it can be read. Whatever is wrong with it, recovery
/// will say.
#[must_use]
pub fn peek_meta(dir: &Path) -> Option<Meta> {
    // What is called so may be a pipe, for which a plain opening would wait.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(dir.join("META"), flags, Mode::empty()).ok()?);
    let mut bytes = Vec::new();
    if file.metadata().ok()?.is_file() {
        file.take(LOOK_LEN).read_to_end(&mut bytes).ok()?;
    }
    Meta::read(&bytes).ok()
}

/// A file of settings, whole.
#[cfg(feature = "config")]
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}
