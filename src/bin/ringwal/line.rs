//! A line of input as an entry.
//!
//! ```text
//!   0             8            16          20          24
//!   │ offset u64  │ number u64 │ run u32   │ flags u32 │ the line's bytes, without newline │
//! ```
//! | field  | means                                                                       |
//! |--------|-----------------------------------------------------------------------------|
//! | offset | where in the input the next line begins: reading goes on there               |
//! | number | which line of the input it is, from 1                                        |
//! | run    | which run of the program on this directory read it                           |
//! | flags  | bit 0: the input ended without a newline behind this line                    |
//!
//! `(run, offset)` orders all lines that ever went through a directory: runs rise, and within a run
//! offsets do. The resume point is the greatest pair that is known; see `pipe/resume.rs`.

use std::ops::Range;
use std::sync::Arc;

use ringwal::{DecodeError, Entry, Schema};

/// Length of what precedes the text.
pub(crate) const HEAD_LEN: usize = 24;
const NO_NEWLINE: u32 = 1;

/// Where a line came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Head {
    /// Offset in the input behind the line and its newline.
    pub(crate) offset: u64,
    /// Number of the line, from 1.
    pub(crate) number: u64,
    /// The run that read it.
    pub(crate) run: u32,
    /// Whether the input ended without a newline behind it.
    pub(crate) no_newline: bool,
}

impl Head {
    fn put(self, out: &mut [u8]) {
        out[0..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..20].copy_from_slice(&self.run.to_le_bytes());
        out[20..24].copy_from_slice(&(u32::from(self.no_newline) * NO_NEWLINE).to_le_bytes());
    }

    fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, text) = bytes.split_at_checked(HEAD_LEN)?;
        let flags = u32::from_le_bytes(head[20..24].try_into().ok()?);
        let head = Self {
            offset: u64::from_le_bytes(head[0..8].try_into().ok()?),
            number: u64::from_le_bytes(head[8..16].try_into().ok()?),
            run: u32::from_le_bytes(head[16..20].try_into().ok()?),
            no_newline: flags & NO_NEWLINE != 0,
        };
        (flags & !NO_NEWLINE == 0).then_some((head, text))
    }
}

/// The head and the text of an encoded line.
pub(crate) fn split(bytes: &[u8]) -> Option<(Head, &[u8])> {
    Head::take(bytes)
}

/// The name and version of the encoding, as it stands in segment headers.
pub(crate) const LINE_SCHEMA: Schema = Schema::new("ringwal.line", 1);

/// A line on its way into the queue, or, at delivery, only where it came from: the text is then read
/// where it lies, with [`split`] of the batch's bytes, so that no line is ever copied out.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) head: Head,
    chunk: Option<Arc<Vec<u8>>>,
    text: Range<usize>,
}

impl Line {
    /// A line whose text lies in a chunk of the input.
    pub(crate) fn new(head: Head, chunk: Arc<Vec<u8>>, text: Range<usize>) -> Self {
        assert!(text.start <= text.end && text.end <= chunk.len(), "a line lies within its chunk");
        Self { head, chunk: Some(chunk), text }
    }

    fn text(&self) -> &[u8] {
        self.chunk.as_ref().map_or(&[], |chunk| &chunk[self.text.clone()])
    }
}

impl Entry for Line {
    const SCHEMA: Schema = LINE_SCHEMA;

    fn encoded_len(&self) -> Option<usize> {
        Some(HEAD_LEN + self.text.len())
    }

    fn encode_into(&self, out: &mut [u8]) {
        self.head.put(&mut out[..HEAD_LEN]);
        out[HEAD_LEN..].copy_from_slice(self.text());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (head, _) =
            split(bytes).ok_or_else(|| DecodeError::new("this is no line: its head is too short or unknown"))?;
        Ok(Self { head, chunk: None, text: 0..0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_with_its_head() {
        let head = Head { offset: 9, number: 2, run: 3, no_newline: true };
        let line = Line::new(head, Arc::new(b"one\ntwo".to_vec()), 4..7);
        let mut bytes = vec![0xff; line.encoded_len().unwrap()];
        line.encode_into(&mut bytes);
        assert_eq!(split(&bytes), Some((head, &b"two"[..])));
        assert_eq!(Line::decode(&bytes).unwrap().head, head);
    }

    #[test]
    fn bytes_that_are_no_line_are_refused() {
        assert!(Line::decode(&[0; HEAD_LEN - 1]).is_err());
        let mut unknown_flag = [0; HEAD_LEN];
        unknown_flag[20] = 2;
        assert!(Line::decode(&unknown_flag).is_err());
        assert!(Line::decode(&[0; HEAD_LEN]).is_ok());
    }
}
