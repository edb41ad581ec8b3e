//! The open files of a driver: few, found by name, closed when they have long not been used.
//!
//! A store may have more segments than a process may have descriptors, and recovery looks at every
//! one. So at most [`FILES_MAX`] are open at a time, and a quarter of the descriptors that the process may
//! have. One with an op in flight, or with writes that no sync has followed, is never closed to make room:
//! its error state lives with the descriptor. Of writes that were sent while a sync was under way that is
//! not kept: they count as followed when it ends.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;

use crate::io::dir::Dir;
use crate::io::landing::OpenFile;
use crate::wal::op::{FileId, Op};

/// Most open files of a driver, and length of the table that a ring keeps of them.
pub(super) const FILES_MAX: u32 = 128;

/// An open file, counted as in use until [`Files::release`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle {
    /// Its place in the table, below [`FILES_MAX`] unless everything is in use.
    pub(super) index: u32,
    /// Its descriptor.
    pub(super) fd: RawFd,
    /// Whether it was opened just now, so that the place holds another file than before.
    pub(super) fresh: bool,
}

struct Open {
    file: FileId,
    fd: OpenFile,
    in_flight: u32,
    unsynced: bool,
    used: u64,
    /// It was removed, and is closed with the last op on it: reads that nobody waits for any more.
    removed: bool,
}

/// The table.
pub(super) struct Files {
    dir: Arc<Dir>,
    by_name: HashMap<FileId, u32>,
    places: Vec<Option<Open>>,
    places_max: usize,
    turn: u64,
    locks: bool,
}

impl Files {
    pub(super) fn new(dir: Arc<Dir>) -> Self {
        Self {
            locks: false,
            dir,
            by_name: HashMap::with_capacity(FILES_MAX as usize),
            places: Vec::with_capacity(FILES_MAX as usize),
            places_max: places_max(),
            turn: 0,
        }
    }

    /// Files that are locked as long as they are open and a write on them is in flight: see `landing.rs`.
    #[cfg(feature = "tokio-uring")]
    pub(super) fn locked(dir: Arc<Dir>) -> Self {
        Self { locks: !dir.read_only, ..Self::new(dir) }
    }

    /// Whether nothing may be written.
    pub(super) fn read_only(&self) -> bool {
        self.dir.read_only
    }

    /// What offsets, lengths and memory are aligned to.
    pub(super) fn align(&self) -> usize {
        self.dir.align
    }

    /// The file, opened if need be, and in use from now on.
    pub(super) fn acquire(&mut self, file: FileId, unsynced: bool) -> Result<Handle, Errno> {
        self.turn += 1;
        let (index, fresh) = match self.by_name.get(&file) {
            Some(index) => (*index, false),
            None => (self.open(file)?, true),
        };
        let open = self.places[index as usize].as_mut().expect("a named place holds a file");
        open.in_flight += 1;
        open.unsynced |= unsynced;
        open.used = self.turn;
        Ok(Handle { index, fd: open.fd.share().as_raw_fd(), fresh })
    }

    /// The descriptor of a file in use, shared with a thread.
    pub(super) fn share(&self, handle: Handle) -> Arc<OwnedFd> {
        Arc::clone(self.places[handle.index as usize].as_ref().expect("a file in use is open").fd.share())
    }

    /// Ends a use; `synced` if it was a sync that went well. True: it was the last one of a file that was removed,
    /// and its place is empty now.
    pub(super) fn release(&mut self, index: u32, synced: bool) -> bool {
        let open = self.places[index as usize].as_mut().expect("a file in use is open");
        assert!(open.in_flight > 0, "a file is released as often as acquired");
        open.in_flight -= 1;
        if synced {
            open.unsynced = false;
        }
        let ends = open.removed && open.in_flight == 0;
        if ends {
            self.places[index as usize] = None;
        }
        ends
    }

    /// The helper is about to do `op`: closes what may have another file under its name afterwards, so that the next op
    /// opens that one. Each place that became empty goes to `closed`.
    pub(super) fn give_way(&mut self, op: &Op, closed: impl FnMut(u32)) {
        match op {
            // A prepare that fails may have removed the file, and the next one then makes another: what is written
            // through a descriptor of before would be told durable and end with the process.
            Op::Prepare { file, .. } | Op::Remove { file } => self.forget(*file).into_iter().for_each(closed),
            // Somebody else may have removed a file and made another of its name.
            Op::List { .. } if self.read_only() => self.forget_idle(closed),
            _ => {}
        }
    }

    /// Closes a file that is about to go away, and gives its place in the table; or sees to it that `release` does.
    fn forget(&mut self, file: FileId) -> Option<u32> {
        let index = self.by_name.remove(&file)?;
        let open = self.places[index as usize].as_mut().expect("a named place holds a file");
        if open.in_flight > 0 {
            open.removed = true;
            return None;
        }
        self.places[index as usize] = None;
        Some(index)
    }

    /// Closes what is not in use, so that the next op finds what has that name then.
    fn forget_idle(&mut self, mut closed: impl FnMut(u32)) {
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Some(open) = place.take_if(|open| open.in_flight == 0 && !open.unsynced) {
                self.by_name.remove(&open.file);
                closed(narrow(index));
            }
        }
    }

    fn open(&mut self, file: FileId) -> Result<u32, Errno> {
        let fd = OpenFile::new(self.dir.open(file)?, self.locks);
        let index = self.place();
        let open = Open { file, fd, in_flight: 0, unsynced: false, used: self.turn, removed: false };
        self.places[index as usize] = Some(open);
        self.by_name.insert(file, index);
        Ok(index)
    }

    /// A place that is or becomes empty: in the end the table grows rather than refuse an op.
    fn place(&mut self) -> u32 {
        if let Some(empty) = self.places.iter().position(Option::is_none) {
            return narrow(empty);
        }
        if self.places.len() >= self.places_max {
            let idle = |open: &Open| open.in_flight == 0 && !open.unsynced;
            let places = self.places.iter().enumerate();
            let oldest =
                places.filter_map(|(index, open)| open.as_ref().filter(|o| idle(o)).map(|o| (o.used, index))).min();
            if let Some((_, index)) = oldest {
                let closed = self.places[index].take().expect("the oldest place holds a file");
                self.by_name.remove(&closed.file);
                return narrow(index);
            }
        }
        self.places.push(None);
        narrow(self.places.len() - 1)
    }
}

/// How many files may be open: the others of the process need descriptors, too.
fn places_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let quarter = limit.map_or(usize::MAX, |limit| usize::try_from(limit / 4).unwrap_or(usize::MAX));
    quarter.clamp(8, FILES_MAX as usize)
}

fn narrow(index: usize) -> u32 {
    u32::try_from(index).expect("a process has fewer than 2^32 descriptors")
}
