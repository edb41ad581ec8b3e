//! Cuts the input into lines.
//!
//! ```text
//!   chunk   │ line ⏎ line ⏎ line ⏎ begin of a li │   free   │
//!             given out as `Line`s  └ moved to the front, then more is read behind it
//! ```
//! Lines share the chunk they lie in. They are encoded when they are pushed, so by the time the next
//! chunk is read nobody holds this one, and its memory is used again.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::signals::Stop;
use crate::failure::{Failure, Result};
use crate::line::{Head, Line};

/// How much is read at once.
const CHUNK_LEN: usize = 256 << 10;

/// What came of reading on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fill {
    /// There may be lines.
    More,
    /// The input is at its end, and all of it has been given out.
    End,
    /// The run is to end.
    Stopped,
}

/// An input, line by line.
pub(crate) struct Lines {
    input: File,
    name: String,
    /// Whether reading may take for ever, and must be waited for with an eye on the signals.
    may_block: bool,
    len_max: usize,
    chunk: Arc<Vec<u8>>,
    /// What of the chunk is filled, given out, and known to hold no newline.
    filled: usize,
    taken: usize,
    searched: usize,
    at_end: bool,
    /// The last line read.
    head: Head,
}

impl Lines {
    /// The lines of `input` behind `from`, where the input must stand already.
    pub(crate) fn new(input: File, name: String, may_block: bool, len_max: usize, from: Head) -> Self {
        let chunk = Arc::new(vec![0; CHUNK_LEN]);
        Self { input, name, may_block, len_max, chunk, filled: 0, taken: 0, searched: 0, at_end: false, head: from }
    }

    /// The last line that was given out.
    pub(crate) const fn head(&self) -> Head {
        self.head
    }

    /// Reads on. To be called when there is no further line in the chunk.
    pub(crate) fn fill(&mut self, stop: &Stop) -> Result<Fill> {
        if self.at_end {
            return Ok(Fill::End);
        }
        if self.may_block && !self.wait_for_input(stop)? {
            return Ok(Fill::Stopped);
        }
        self.make_room();
        let room =
            &mut Arc::get_mut(&mut self.chunk).unwrap_or_else(|| unreachable!("make_room saw to that"))[self.filled..];
        let read = loop {
            match self.input.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read = read.map_err(|error| {
            let Self { name, head, .. } = self;
            Failure::new(format!(
                "cannot read {name} behind line {} at offset {}: {error}; run again to go on there",
                head.number, head.offset
            ))
        })?;
        self.filled += read;
        self.at_end = read == 0;
        Ok(if self.at_end && self.taken == self.filled { Fill::End } else { Fill::More })
    }

    /// The next line of the chunk, if there is a whole one.
    ///
    /// # Errors
    /// When it is too long. Nothing of it has been given out then.
    pub(crate) fn next_line(&mut self) -> Result<Option<Line>> {
        let newline = self.chunk[self.searched..self.filled].iter().position(|byte| *byte == b'\n');
        let (end, no_newline) = match newline {
            Some(at) => (self.searched + at, false),
            None => {
                self.searched = self.filled;
                if !self.at_end || self.taken == self.filled {
                    self.check_len(self.filled - self.taken)?;
                    return Ok(None);
                }
                (self.filled, true)
            }
        };
        let text = self.taken..end;
        self.check_len(text.len())?;
        let consumed = end + usize::from(!no_newline);
        self.head = Head {
            offset: self.head.offset + (consumed - self.taken) as u64,
            number: self.head.number + 1,
            run: self.head.run,
            no_newline,
        };
        (self.taken, self.searched) = (consumed, consumed);
        Ok(Some(Line::new(self.head, Arc::clone(&self.chunk), text)))
    }

    fn check_len(&self, len: usize) -> Result<()> {
        if len <= self.len_max {
            return Ok(());
        }
        let Self { name, head, len_max, .. } = self;
        Err(Failure::new(format!(
            "line {} of {name}, at offset {}, is longer than {len_max} bytes; nothing of it was written, the lines before it \
             were. Run again with a greater --entry-len-max to go on with it",
            head.number + 1,
            head.offset
        )))
    }

    /// Moves the begun line to the front, and makes the chunk longer if it fills it.
    fn make_room(&mut self) {
        let rest = self.taken..self.filled;
        let rest_len = rest.len();
        let len = if rest_len * 2 > self.chunk.len() { self.chunk.len() * 2 } else { self.chunk.len() };
        match Arc::get_mut(&mut self.chunk) {
            Some(chunk) => {
                chunk.copy_within(rest, 0);
                chunk.resize(len, 0);
            }
            None => {
                let mut chunk = vec![0; len];
                chunk[..rest_len].copy_from_slice(&self.chunk[rest]);
                self.chunk = Arc::new(chunk);
            }
        }
        self.searched -= self.taken;
        (self.taken, self.filled) = (0, rest_len);
    }

    /// Waits until there is something to read. False: the run is to end.
    fn wait_for_input(&self, stop: &Stop) -> Result<bool> {
        let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !stop.is_set() {
            let mut fds = [PollFd::from_borrowed_fd(self.input.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&pause)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => {
                    return Err(Failure::new(format!("cannot wait for {}: {}", self.name, io::Error::from(errno))));
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::split;
    use ringwal::Entry;
    use std::io::{Seek, SeekFrom, Write};

    fn read_all(content: &[u8], len_max: usize, from: Head) -> (Vec<(Head, Vec<u8>)>, Option<String>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.seek(SeekFrom::Start(from.offset)).unwrap();
        let mut lines = Lines::new(file, "in".to_owned(), false, len_max, from);
        let mut out = Vec::new();
        loop {
            loop {
                match lines.next_line() {
                    Ok(Some(line)) => {
                        let mut bytes = Vec::new();
                        line.encode(&mut bytes).unwrap();
                        let (head, text) = split(&bytes).unwrap();
                        out.push((head, text.to_vec()));
                    }
                    Ok(None) => break,
                    Err(failure) => return (out, Some(failure.to_string())),
                }
            }
            if lines.fill(&Stop::default()).unwrap() == Fill::End {
                return (out, None);
            }
        }
    }

    #[test]
    fn lines_come_whole_with_offset_and_number_and_the_last_one_without_newline_too() {
        let (lines, error) = read_all(b"one\n\n\xff\0x\nend", 100, Head { run: 7, ..Head::default() });
        assert_eq!(error, None);
        let texts: Vec<_> =
            lines.iter().map(|(head, text)| (head.offset, head.number, head.no_newline, &text[..])).collect();
        assert_eq!(
            texts,
            [(4, 1, false, &b"one"[..]), (5, 2, false, b""), (9, 3, false, b"\xff\0x"), (12, 4, true, b"end")]
        );
        assert!(lines.iter().all(|(head, _)| head.run == 7));
    }

    #[test]
    fn reading_goes_on_behind_a_line() {
        let from = Head { offset: 4, number: 1, ..Head::default() };
        let (lines, _) = read_all(b"one\ntwo\n", 100, from);
        assert_eq!(lines, [(Head { offset: 8, number: 2, ..Head::default() }, b"two".to_vec())]);
    }

    #[test]
    fn lines_longer_than_a_chunk_are_read_and_chunks_are_used_again() {
        let mut content = Vec::new();
        for len in [10, CHUNK_LEN - 3, 0, CHUNK_LEN * 3 + 1, 5] {
            content.extend(std::iter::repeat_n(b'a' + (len % 26) as u8, len));
            content.push(b'\n');
        }
        let (lines, error) = read_all(&content, usize::MAX, Head::default());
        assert_eq!(error, None);
        let joined: Vec<u8> = lines.iter().flat_map(|(_, text)| [&text[..], b"\n"].concat()).collect();
        assert!(joined == content, "what was read is what was written");
        assert_eq!(lines.last().unwrap().0.offset, content.len() as u64);
    }

    #[test]
    fn a_line_that_is_too_long_is_named_and_nothing_of_it_is_given_out() {
        for long in [&b"ok\n123456\n"[..], b"ok\n123456"] {
            let (lines, error) = read_all(long, 5, Head::default());
            assert_eq!(lines.len(), 1);
            let error = error.unwrap();
            assert!(
                error.contains("line 2") && error.contains("offset 3") && error.contains("--entry-len-max"),
                "{error}"
            );
        }
        assert_eq!(read_all(b"12345\n", 5, Head::default()).1, None);
    }
}
