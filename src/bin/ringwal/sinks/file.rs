//! Lines appended to a file, synced batch by batch.
//!
//! | what a crash may leave          | what becomes of it                                               |
//! |---------------------------------|------------------------------------------------------------------|
//! | a whole batch, not acknowledged | it comes again: these lines are there twice                      |
//! | a part of a batch               | the cut line is ended with a newline, then the batch comes again |
//!
//! A batch that fails while the process lives (no space) is cut off again before it is retried.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ringwal::{Batch, Outcome};

use super::{Deliver, join};
use crate::failure::{Failure, Result};
use crate::line::Line;

pub(super) struct Append {
    path: PathBuf,
    file: File,
    /// Length up to which the file is as it should be; `None` for what cannot be cut, as a terminal.
    good_len: Option<u64>,
    /// The file ends within a line.
    ends_open: bool,
    buffer: Vec<u8>,
}

impl Append {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fail = |error: io::Error| {
            Failure::new(format!(
                "cannot append to {}: {error}; give the path of a file that may be written",
                path.display()
            ))
        };
        let mut file = OpenOptions::new().append(true).read(true).create(true).open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let good_len = metadata.is_file().then_some(metadata.len());
        let ends_open = ends_within_a_line(&mut file, good_len.unwrap_or(0)).map_err(fail)?;
        if good_len.is_some() {
            sync_name(path).map_err(fail)?;
        }
        Ok(Self { path: path.to_owned(), file, good_len, ends_open, buffer: Vec::new() })
    }

    fn append(&mut self, batch: &Batch<Line>) -> io::Result<()> {
        join(batch, &mut self.buffer);
        if self.ends_open {
            self.buffer.insert(0, b'\n');
        }
        self.file.write_all(&self.buffer)?;
        if let Some(len) = self.good_len {
            self.file.sync_data()?;
            self.good_len = Some(len + self.buffer.len() as u64);
        }
        self.ends_open = self.buffer.last().map_or(self.ends_open, |last| *last != b'\n');
        Ok(())
    }
}

impl Deliver for Append {
    fn deliver(&mut self, batch: &Batch<Line>) -> Outcome {
        let Err(error) = self.append(batch) else {
            return Outcome::ack();
        };
        // What was written of the batch goes, so that the next attempt begins where this one did.
        let cut = self.good_len.map_or(Ok(()), |len| self.file.set_len(len));
        match cut {
            Ok(()) => Outcome::retry(format!("{}: {error}", self.path.display())),
            Err(cut) => Outcome::retry(format!("{}: {error}; and it cannot be cut back: {cut}", self.path.display())),
        }
    }
}

fn ends_within_a_line(file: &mut File, len: u64) -> io::Result<bool> {
    if len == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(len - 1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Makes the file's name durable.
fn sync_name(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_cut_within_a_line_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for (content, open) in [(&b""[..], false), (b"a\n", false), (b"a\nb", true)] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Append::open(&path).unwrap().ends_open, open, "{content:?}");
        }
        assert!(Append::open(dir.path()).is_err());
    }
}
