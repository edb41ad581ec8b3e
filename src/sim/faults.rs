//! What can go wrong with an op while the machine lives.

use std::time::Duration;

use crate::sim::OpKind;
use crate::wal::op::FileId;

/// What an op meets instead of success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// It ends with this error number. A write may have landed in part, a sync may have lost what it
    /// was to make durable: by the seed.
    Error(i32),
    /// It says that it is done, and nothing was written.
    Lost,
    /// It says that it is done, and the bytes went there.
    Misdirected(FileId, u64),
    /// It succeeds, so much later.
    Late(Duration),
    /// A read brings what stood there before the last write of each byte.
    Stale,
    /// A sync ends with this error number, and what it was to make durable is gone.
    Gone(i32),
}

/// A failure that waits for its op. Give it to [`SimDisk::inject`](super::SimDisk::inject).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    kind: OpKind,
    file: Option<FileId>,
    offset: Option<u64>,
    /// Matching ops that still pass.
    pass: u64,
    forever: bool,
    effect: Effect,
}

impl Fault {
    const fn new(kind: OpKind, effect: Effect) -> Self {
        Self { kind, file: None, offset: None, pass: 0, forever: false, effect }
    }

    /// The next op of this kind ends with this error number.
    ///
    /// # Panics
    /// When `errno` is not positive.
    #[must_use]
    pub const fn error(kind: OpKind, errno: i32) -> Self {
        assert!(errno > 0, "an error has a number");
        Self::new(kind, Effect::Error(errno))
    }

    /// The next write completes, and never reaches the medium.
    #[must_use]
    pub const fn lost() -> Self {
        Self::new(OpKind::Write, Effect::Lost)
    }

    /// The next write completes, and its bytes went to another place.
    #[must_use]
    pub const fn misdirected(file: FileId, offset: u64) -> Self {
        Self::new(OpKind::Write, Effect::Misdirected(file, offset))
    }

    /// The next op of this kind takes so much longer; one of `Duration::MAX` ends when it is
    /// [let go](super::SimDisk::let_go), or never.
    #[must_use]
    pub const fn late(kind: OpKind, by: Duration) -> Self {
        Self::new(kind, Effect::Late(by))
    }

    /// The next read brings what stood at its place before it was last written.
    #[must_use]
    pub const fn stale() -> Self {
        Self::new(OpKind::Read, Effect::Stale)
    }

    /// The next sync ends with this error number, and what it was to make durable is gone: what Linux does with
    /// dirty pages that it could not write. A sync after it succeeds, and saves nothing.
    ///
    /// # Panics
    /// When `errno` is not positive.
    #[must_use]
    pub const fn gone(errno: i32) -> Self {
        assert!(errno > 0, "an error has a number");
        Self::new(OpKind::Sync, Effect::Gone(errno))
    }

    /// The next op of this kind does not end until [`SimDisk::heal`](super::SimDisk::heal), or a crash.
    #[must_use]
    pub const fn hung(kind: OpKind) -> Self {
        Self::new(kind, Effect::Late(Duration::MAX))
    }

    /// Not the next such op, but the one after `count` others.
    #[must_use]
    pub const fn after(self, count: u64) -> Self {
        Self { pass: count, ..self }
    }

    /// Only ops on this file.
    #[must_use]
    pub const fn on(self, file: FileId) -> Self {
        Self { file: Some(file), ..self }
    }

    /// Only ops at this offset.
    #[must_use]
    pub const fn at(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    /// Every such op from then on.
    #[must_use]
    pub const fn forever(self) -> Self {
        Self { forever: true, ..self }
    }

    /// Whether it strikes this op; and whether it has struck for the last time.
    pub(super) fn strikes(&mut self, kind: OpKind, file: FileId, offset: u64) -> Option<(Effect, bool)> {
        let meant =
            kind == self.kind && self.file.is_none_or(|f| f == file) && self.offset.is_none_or(|at| at == offset);
        if !meant {
            return None;
        }
        match self.pass.checked_sub(1) {
            Some(left) => {
                self.pass = left;
                None
            }
            None => Some((self.effect, !self.forever)),
        }
    }
}

/// How a machine ends what runs on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Death {
    /// The power goes: [`SimDisk::crash`](super::SimDisk::crash).
    PowerCut,
    /// The process dies alone: [`SimDisk::kill`](super::SimDisk::kill).
    Kill,
}

/// A death that comes when so many more ops have ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fuse {
    pub(super) ops: u64,
    pub(super) death: Death,
}

impl Fuse {
    /// An op has ended. Tells the death that comes now.
    pub(super) fn burn(fuse: &mut Option<Self>) -> Option<Death> {
        let burning = fuse.as_mut()?;
        burning.ops -= 1;
        fuse.take_if(|fuse| fuse.ops == 0).map(|fuse| fuse.death)
    }
}
