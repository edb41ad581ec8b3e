//! A disk in memory, for `Durability::Memory`: the same ops, done at once, gone with the process.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::io::wake::Bell;
use crate::io::{Disk, DiskReport, Wake, disk_error};
use crate::wal::op::{Completion, DiskError, FileId, Op, Output, Token};

/// Its unit of reading and writing.
const BLOCK_LEN: u32 = 4096;

/// A disk in memory.
#[derive(Default)]
pub struct RamDisk {
    files: BTreeMap<FileId, Vec<u8>>,
    quarantine: Vec<(FileId, Vec<u8>)>,
    done: VecDeque<Completion>,
    bell: Arc<Bell>,
}

impl RamDisk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn run(&mut self, op: Op) -> Result<Output, DiskError> {
        match op {
            Op::List { log } => {
                let files = self.files.iter().filter(|(file, _)| file.log() == log);
                Ok(Output::Files(files.map(|(file, bytes)| (*file, bytes.len() as u64)).collect()))
            }
            Op::Prepare { file, len, mark, .. } => {
                let refused = |errno| disk_error("prepare", Some(file), None, errno, "");
                let unit = u64::from(BLOCK_LEN);
                if len == 0 || !len.is_multiple_of(unit) || !(mark.len() as u64).is_multiple_of(unit) {
                    return Err(refused(libc::EINVAL));
                }
                if mark.len() as u64 > len {
                    return Err(refused(libc::EFBIG));
                }
                let len = usize::try_from(len).map_err(|_| refused(libc::EFBIG))?;
                let mut bytes = vec![0; len];
                bytes[..mark.len()].copy_from_slice(&mark);
                self.files.insert(file, bytes);
                Ok(Output::Done)
            }
            Op::Write { file, offset, block, .. } => {
                let bytes = self.file("write", file, Some(offset))?;
                let too_far = || disk_error("write", Some(file), Some(offset), libc::EFBIG, "");
                let start = usize::try_from(offset).map_err(|_| too_far())?;
                let end = start.checked_add(block.len()).ok_or_else(too_far)?;
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(&block);
                Ok(Output::Done)
            }
            Op::Sync { file } => self.file("sync", file, None).map(|_| Output::Done),
            Op::Read { file, offset, mut block } => {
                let bytes = self.file("read", file, Some(offset))?;
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let count = block.len().min(bytes.len() - start);
                block[..count].copy_from_slice(&bytes[start..start + count]);
                block[count..].fill(0);
                Ok(Output::Bytes(block))
            }
            Op::Remove { file } => {
                self.files.remove(&file);
                Ok(Output::Done)
            }
            Op::Quarantine { file } => {
                let copy = self.file("quarantine", file, None)?.clone();
                self.quarantine.push((file, copy));
                Ok(Output::Done)
            }
        }
    }

    fn file(&mut self, what: &'static str, file: FileId, offset: Option<u64>) -> Result<&mut Vec<u8>, DiskError> {
        self.files.get_mut(&file).ok_or_else(|| disk_error(what, Some(file), offset, libc::ENOENT, ""))
    }
}

impl Disk for RamDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let result = self.run(op);
        self.done.push_back(Completion { token, result });
    }

    fn complete(&mut self, timeout: Option<Duration>) -> Option<Completion> {
        if self.done.is_empty() && timeout != Some(Duration::ZERO) {
            self.bell.wait(timeout);
        }
        self.done.pop_front()
    }

    fn doorbell(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }

    fn report(&self) -> DiskReport {
        DiskReport {
            driver: "memory",
            direct: false,
            durable: false,
            file_system: "memory".to_owned(),
            block_len_min: BLOCK_LEN,
            notes: vec!["everything here is gone with the process".to_owned()],
        }
    }
}

impl fmt::Debug for RamDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RamDisk({} files, {} in quarantine)", self.files.len(), self.quarantine.len())
    }
}
