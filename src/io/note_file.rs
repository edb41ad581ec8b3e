//! A short file that is written whole or not at all, and the folders beside it.

use std::fs::File;
use std::io::{ErrorKind, Read, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads a file of at most `len_max` bytes; `None`: there is none. A longer one is cut off.
///
/// # Errors
/// What the system says.
pub(crate) fn read_note(path: &Path, len_max: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(len_max).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(bytes))
}

/// Puts these bytes in the place of the file: durably, and so that whoever opens it finds all of the old ones or all of
/// the new ones, whenever the power goes.
///
/// # Errors
/// What the system says.
pub(crate) fn write_note(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    // The name is durable only with the directory that holds it.
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// The names of the folders in `dir`, in order; none where it is missing.
///
/// # Errors
/// What the system says.
pub(crate) fn folders(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}
