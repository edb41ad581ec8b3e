//! Lines appended to a file, synced batch by batch.
//!
//! | what a crash may leave          | what becomes of it                                               |
//! |---------------------------------|------------------------------------------------------------------|
//! | a whole batch, not acknowledged | it comes again: these lines are there twice                      |
//! | a part of a batch               | the cut line is ended with a newline, then the batch comes again |
//!
//! A batch that fails while the process lives (no space) is cut off again, and until that is done nothing is written.
//! Others may append to the file or truncate it at any time, so nothing is remembered of its length: only what was
//! written of the batch is cut off, and only where the file ends with it. Elsewhere it stays, as after a crash.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ringwal::{Batch, Outcome};

use super::{Deliver, join};
use crate::failure::{Failure, Result};
use crate::line::Line;

pub(super) struct Append {
    path: PathBuf,
    file: File,
    /// Whether it can be read and cut: not a terminal, nor a pipe.
    is_regular: bool,
    /// The file ends within a line.
    ends_open: bool,
    buffer: Vec<u8>,
    /// What a failed batch has written and is still to be cut off.
    begun: Vec<u8>,
}

impl Append {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fail = |error: io::Error| {
            Failure::new(format!(
                "cannot append to {}: {error}; give the path of a file that may be written",
                path.display()
            ))
        };
        let file = OpenOptions::new().append(true).read(true).create(true).open(path).map_err(fail)?;
        let is_regular = file.metadata().map_err(fail)?.is_file();
        if is_regular {
            sync_name(path).map_err(fail)?;
        }
        let (buffer, begun) = (Vec::new(), Vec::new());
        Ok(Self { path: path.to_owned(), file, is_regular, ends_open: false, buffer, begun })
    }

    /// Appends what is in the buffer.
    fn append(&mut self) -> io::Result<()> {
        if self.is_regular {
            self.cut_back()?;
            self.ends_open = ends_within_a_line(&self.file)?;
        }
        if self.ends_open {
            self.buffer.insert(0, b'\n');
        }
        let mut written = 0;
        let mut result = write_all(&mut self.file, &self.buffer, &mut written);
        if self.is_regular {
            result = result.and_then(|()| self.file.sync_data());
            if result.is_err() {
                self.begun.extend_from_slice(&self.buffer[..written]);
            }
        }
        result?;
        self.ends_open = self.buffer.last().map_or(self.ends_open, |last| *last != b'\n');
        Ok(())
    }

    /// Cuts off what a failed batch has written, if the file still ends with it.
    fn cut_back(&mut self) -> io::Result<()> {
        if self.begun.is_empty() {
            return Ok(());
        }
        let len = self.file.metadata()?.len();
        if let Some(before) = len.checked_sub(self.begun.len() as u64) {
            let mut end = vec![0; self.begun.len()];
            self.file.read_exact_at(&mut end, before)?;
            if end == self.begun {
                self.file.set_len(before)?;
            }
        }
        self.begun.clear();
        Ok(())
    }
}

impl Deliver for Append {
    fn deliver(&mut self, batch: &Batch<Line>) -> Outcome {
        join(batch, &mut self.buffer);
        let Err(error) = self.append() else {
            return Outcome::ack();
        };
        // At once, as it may be long until the next attempt.
        match self.cut_back() {
            Ok(()) => Outcome::retry(format!("{}: {error}", self.path.display())),
            Err(cut) => Outcome::retry(format!("{}: {error}; and it cannot be cut back: {cut}", self.path.display())),
        }
    }
}

/// Writes it all, and counts what is written also where that fails.
fn write_all(to: &mut impl Write, bytes: &[u8], written: &mut usize) -> io::Result<()> {
    while *written < bytes.len() {
        match to.write(&bytes[*written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => *written += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ends_within_a_line(file: &File) -> io::Result<bool> {
    let len = file.metadata()?.len();
    if len == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.read_exact_at(&mut last, len - 1)?;
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
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    fn append(sink: &mut Append, bytes: &[u8]) -> io::Result<()> {
        sink.buffer = bytes.to_vec();
        sink.append()
    }

    #[test]
    fn a_file_that_was_cut_within_a_line_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for (before, after) in [("", "x\n"), ("a\n", "a\nx\n"), ("a\nb", "a\nb\nx\n")] {
            std::fs::write(&path, before).unwrap();
            append(&mut Append::open(&path).unwrap(), b"x\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
        assert!(Append::open(dir.path()).is_err());
    }

    #[test]
    fn what_others_did_to_the_file_stays_whatever_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut sink = Append::open(&path).unwrap();
        for (found, after) in [
            ("a\npart", "a\nx\n"),
            ("a\nother\npart", "a\nother\nx\n"),
            ("a\npartother\n", "a\npartother\nx\n"),
            ("a\npa", "a\npa\nx\n"),
            ("", "x\n"),
            ("other\n", "other\nx\n"),
        ] {
            std::fs::write(&path, found).unwrap();
            sink.begun = b"part".to_vec();
            append(&mut sink, b"x\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after, "{found:?}");
        }
    }

    /// It was written behind, and the next cut took the acknowledged lines there with it.
    #[test]
    fn nothing_is_written_behind_what_cannot_be_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, "a\npart").unwrap();
        let mut sink = Append::open(&path).unwrap();
        // It can be written to, and not be cut.
        let mut sealed = File::from(memfd_create("sealed", MemfdFlags::ALLOW_SEALING).unwrap());
        sealed.write_all(b"a\npart").unwrap();
        fcntl_add_seals(&sealed, SealFlags::SHRINK).unwrap();
        let file = std::mem::replace(&mut sink.file, sealed);
        sink.begun = b"part".to_vec();
        for _ in 0..2 {
            append(&mut sink, b"x\n").unwrap_err();
            assert_eq!(sink.file.metadata().unwrap().len(), 6);
        }
        sink.file = file;
        append(&mut sink, b"x\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nx\n");
    }
}
