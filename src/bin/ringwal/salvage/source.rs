//! The damaged directory: only read, piece by piece, so that one bad sector costs no more than itself.
//!
//! The queue's lock is taken if its file is there, shared and without writing the process's number into it:
//! a queue cannot be opened meanwhile, and not one byte changes.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ringwal::wal::coding::{Decoder, KeyId, KeyProblem, SegmentKey};
use ringwal::wal::cursor::Cursor;
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader};
use ringwal::wal::meta::{Meta, MetaError};
use ringwal::wal::op::LogId;
use ringwal::wal::salvage::{Judged, SECTOR_LEN, Sift, SlotFile, read_cursor};
use ringwal::wal::segment::{SegmentHeader, SlotHeader, StoreId};
use ringwal::{SegmentUid, SlotNo};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::failure::{Failure, Result};
use crate::store::{META_READ_LEN, newer_format, opening_failed};

/// How much is read at once, and how much where that fails.
const CHUNK_LEN: usize = 1 << 20;
const PIECE_LEN: usize = 4096;
/// Room for a META file with the greatest block size.
const META_FILE_LEN: usize = 4 * META_READ_LEN;

/// A directory that is being saved from.
pub(super) struct Source {
    pub(super) dir: PathBuf,
    /// What its slot files hold, those of both logs.
    pub(super) files: Vec<SlotFile>,
    opened: Vec<File>,
    /// Files that cannot even be opened, and why.
    pub(super) closed: Vec<(String, String)>,
    pub(super) main: Description,
    pub(super) park: Description,
    _lock: Option<File>,
}

/// What is left of a META file.
#[derive(Default)]
pub(super) struct Description {
    /// Whether there is a file.
    pub(super) is_there: bool,
    pub(super) meta: Option<Meta>,
    pub(super) cursor: Option<Cursor>,
}

impl Source {
    /// Reads all of `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let is_dir = std::fs::metadata(dir).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Failure::usage(format!("{} does not exist; give the directory of a queue", dir.display()))
            }
            _ => unreadable(dir, &error),
        })?;
        if !is_dir.is_dir() {
            return Err(Failure::usage(format!("{} is not a directory; give the directory of a queue", dir.display())));
        }
        let lock = lock(dir)?;
        let (main, park) = (describe(&dir.join("META"))?, describe(&dir.join("park/META"))?);
        let mut source = Self {
            dir: dir.to_owned(),
            files: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            main,
            park,
            _lock: lock,
        };
        source.read_folder(dir, LogId::Main)?;
        source.read_folder(&dir.join("park"), LogId::Park)?;
        if source.files.is_empty() && source.closed.is_empty() && !source.main.is_there {
            return Err(Failure::usage(format!(
                "{} is not the directory of a queue: there is neither META nor a segment in it; give the directory of a queue",
                dir.display()
            )));
        }
        Ok(source)
    }

    fn read_folder(&mut self, folder: &Path, log: LogId) -> Result<()> {
        let names = match std::fs::read_dir(folder) {
            Ok(names) => names,
            Err(error)
                if log == LogId::Park && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(());
            }
            Err(error) => return Err(unreadable(folder, &error)),
        };
        let mut slots = Vec::new();
        for name in names {
            let name = name.map_err(|error| unreadable(folder, &error))?.file_name();
            if let Some(slot) = name.to_str().and_then(slot_of) {
                slots.push((slot, folder.join(name)));
            }
        }
        slots.sort_unstable();
        for (slot, path) in slots {
            match File::open(&path) {
                Ok(file) => {
                    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                        self.files.push(sift(&file, log, slot));
                        self.opened.push(file);
                    }
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(unreadable(&path, &error)),
                Err(error) => self.closed.push((path.display().to_string(), error.to_string())),
            }
        }
        Ok(())
    }

    /// The body of a frame that was found, read once more; `None` if that brings something else now.
    pub(super) fn body(&self, judged: &Judged) -> Option<Vec<u8>> {
        let header = &judged.piece.header;
        let mut bytes = vec![0; FRAME_HEADER_LEN + header.body_len as usize];
        // A file cut off within a frame's last zeros has lost nothing: the checksums decide.
        read_at(self.opened.get(judged.file)?, &mut bytes, judged.piece.offset).ok()?;
        let found = FrameHeader::decode(&bytes).ok()?;
        if found != *header || !found.body_matches(&bytes[FRAME_HEADER_LEN..]) {
            return None;
        }
        let (mut decoder, key) = self.decoder(judged)?;
        let body = if header.coding.is_plain() && key.is_none() {
            bytes.split_off(FRAME_HEADER_LEN)
        } else {
            let mut body = vec![0; header.raw_len as usize];
            decoder.decode(&bytes, header, key.as_ref(), &mut body).ok()?;
            body
        };
        let records = ringwal::ring::record::Records::new(&body).map_while(std::result::Result::ok).count();
        (records == header.record_count as usize).then_some(body)
    }

    /// The header of a segment, in whichever file it is whole.
    fn segment(&self, uid: SegmentUid) -> Option<&SegmentHeader> {
        let mut headers = self.files.iter().filter_map(|file| match &file.header {
            SlotHeader::Segment(header) => Some(header),
            _ => None,
        });
        headers.find(|header| header.uid == uid)
    }

    /// Whether frames in a file are encrypted with keys whose salts are in no header any more.
    pub(super) fn salt_is_lost(&self, file: &SlotFile) -> bool {
        let mut frames = file.pieces.iter().map(|piece| &piece.header);
        frames.any(|frame| frame.coding.encrypted && self.segment(frame.seg_uid).is_none())
    }

    /// What decodes a frame, if the header of its segment is whole, or it is not encrypted.
    fn decoder(&self, judged: &Judged) -> Option<(Decoder, Option<SegmentKey>)> {
        let frame = &judged.piece.header;
        match self.segment(frame.seg_uid) {
            Some(header) => Some((Decoder::new(header.log, header.store, crate::keys::cipher()), header.key)),
            None if frame.coding.encrypted => None,
            None => Some((Decoder::new(self.files[judged.file].log, StoreId([0; 16]), None), None)),
        }
    }

    /// Whether the key to a frame is missing, or wrong: then it can be saved with the right one.
    pub(super) fn locked(&self, judged: &Judged) -> Option<(KeyId, KeyProblem)> {
        if !judged.piece.header.coding.encrypted {
            return None;
        }
        let (mut decoder, key) = self.decoder(judged)?;
        let key = key?;
        decoder.check(judged.piece.header.seg_uid, &key).err().map(|problem| (key.id, problem))
    }

    /// The name of a file, below the directory.
    pub(super) fn name(&self, file: usize) -> String {
        let file = &self.files[file];
        ringwal::wal::op::FileId::Slot(file.log, file.slot).to_string()
    }
}

/// The shared lock, if there is something to lock.
fn lock(dir: &Path) -> Result<Option<File>> {
    let path = dir.join("LOCK");
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&path, &error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            Err(opening_failed(&ringwal::io::IoOpenError::Locked { dir: dir.to_owned(), pid: pid.trim().parse().ok() }))
        }
        // No locks on this file system: nobody can hold one.
        Err(_) => Ok(None),
    }
}

/// The slot of a file of this name.
fn slot_of(name: &str) -> Option<SlotNo> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".rwal")?;
    let is_plain = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain).map(SlotNo)
}

/// What is left of META and cursor. Only a later format is refused: what is damaged is told later.
fn describe(path: &Path) -> Result<Description> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(unreadable(path, &error)),
        Err(_) => return Ok(Description::default()),
    };
    let mut bytes = Vec::new();
    each_chunk(&file, META_FILE_LEN, &mut |chunk, len| match chunk {
        Some(chunk) => bytes.extend_from_slice(chunk),
        None => bytes.resize(bytes.len() + len, 0),
    });
    let meta = match Meta::read(&bytes) {
        Ok(meta) => Some(meta),
        Err(MetaError::Newer { major, features }) => return Err(newer_format(path, major, features)),
        Err(MetaError::Unreadable) => None,
    };
    Ok(Description { is_there: true, meta, cursor: read_cursor(&bytes) })
}

fn sift(file: &File, log: LogId, slot: SlotNo) -> SlotFile {
    let mut sift = Sift::default();
    each_chunk(file, usize::MAX, &mut |bytes, len| sift.pass(bytes, len));
    sift.finish(log, slot)
}

/// Reads a file in whole sectors, at most about `len_max` bytes of it, and hands out what there is, or how
/// much cannot be read.
fn each_chunk(file: &File, len_max: usize, visit: &mut dyn FnMut(Option<&[u8]>, usize)) {
    let mut buffer = vec![0; CHUNK_LEN];
    let file_len = file.metadata().map_or(0, |metadata| metadata.len());
    let end = file_len.min(len_max as u64);
    let (mut at, mut careful_until) = (0, 0);
    while at < end {
        let want = if at < careful_until { PIECE_LEN } else { CHUNK_LEN };
        match read_at(file, &mut buffer[..want], at) {
            Ok(0) => return,
            Ok(len) => {
                let whole = len.next_multiple_of(SECTOR_LEN);
                buffer[len..whole].fill(0);
                visit(Some(&buffer[..whole]), whole);
                at += whole as u64;
            }
            Err(_) if want > PIECE_LEN => careful_until = at + CHUNK_LEN as u64,
            Err(_) => {
                let len = PIECE_LEN.min(usize::try_from(end - at).unwrap_or(PIECE_LEN)).next_multiple_of(SECTOR_LEN);
                visit(None, len);
                at += len as u64;
            }
        }
    }
}

/// Fills the buffer as far as the file goes.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}; see who may", path.display()))
}
