//! Why a directory could not be opened: what, where, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a queue's directory could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum IoOpenError {
    /// Another queue has it open.
    Locked {
        /// The queue's directory.
        dir: PathBuf,
        /// The process that holds it, as it wrote itself down; information only.
        pid: Option<u32>,
    },
    /// The path, or a part of it, is something else.
    NotADirectory {
        /// What was to be a directory.
        path: PathBuf,
    },
    /// There is nothing, and nothing was to be created.
    Missing {
        /// What is not there.
        path: PathBuf,
    },
    /// The folder is there, and nothing can be made in it.
    TakesNothing {
        /// What was to be made.
        path: PathBuf,
        /// The folder.
        above: PathBuf,
    },
    /// This user may not.
    Permission {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    ReadOnlyFs {
        /// What was to be written.
        path: PathBuf,
    },
    /// No space, no inode or no quota left.
    NoSpace {
        /// What was to be written.
        path: PathBuf,
    },
    /// Rings were to lie in memory.
    NotInMemory {
        /// The folder.
        path: PathBuf,
        /// What it lies on.
        file_system: String,
    },
    /// A file that nobody else may have made or may touch.
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// io_uring was demanded and the kernel does not give it.
    UringRefused {
        /// The kernel's error number.
        errno: i32,
        /// What to do about it.
        remedy: String,
    },
    /// Anything else.
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl IoOpenError {
    /// The kind of error that `errno` is when `what` was tried on `path`.
    pub(super) fn new(what: &'static str, path: &Path, errno: Errno) -> Self {
        let path = path.to_path_buf();
        match errno {
            Errno::NOTDIR | Errno::LOOP => Self::NotADirectory { path },
            Errno::NOENT => Self::Missing { path },
            Errno::ACCESS | Errno::PERM => Self::Permission { what, path },
            Errno::ROFS => Self::ReadOnlyFs { path },
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace { path },
            _ => Self::Io { what, path, source: errno.into() },
        }
    }

    /// The kind of error that `errno` is when `path` was to be made. What is not there then is the folder above it, or the
    /// kernel says so of a folder that takes nothing.
    pub(super) fn on_create(path: &Path, errno: Errno) -> Self {
        let above = above(path).to_path_buf();
        match errno {
            Errno::NOENT if above.exists() => Self::TakesNothing { path: path.to_path_buf(), above },
            Errno::NOENT => Self::Missing { path: above },
            errno => Self::new("create", path, errno),
        }
    }
}

/// The folder that a path lies in.
pub(super) fn above(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Why nothing can be made in a folder that is there.
pub(crate) fn takes_nothing(above: &Path) -> String {
    format!(
        "{} is there and takes nothing new (/proc and /sys belong to the kernel, or it has just been removed); name a \
         directory on a disk",
        above.display()
    )
}

impl fmt::Display for IoOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { dir, pid: Some(pid) } => {
                write!(f, "{} is open in process {pid}: close it there, or use another directory", dir.display())
            }
            Self::Locked { dir, pid: None } => {
                write!(f, "{} is open in another process: close it there, or use another directory", dir.display())
            }
            Self::NotADirectory { path } => {
                write!(f, "{} is not a directory: name a directory, or a place for a new one", path.display())
            }
            Self::Missing { path } => {
                write!(f, "{} does not exist: check the path, or allow it to be created", path.display())
            }
            Self::TakesNothing { path, above } => {
                write!(f, "cannot create {}: {}", path.display(), takes_nothing(above))
            }
            Self::Permission { what, path } => write!(
                f,
                "no permission to {what} {}: give this user read, write and search permission there",
                path.display()
            ),
            Self::ReadOnlyFs { path } => write!(
                f,
                "{} is on a read-only file system: mount it writable, or open the queue read-only",
                path.display()
            ),
            Self::NoSpace { path } => {
                write!(f, "no space or quota left for {}: free some, or use another file system", path.display())
            }
            Self::NotInMemory { path, file_system } => write!(
                f,
                "{} lies on {file_system}, which is not memory: a push into rings there may wait for the disk. Name a \
                 folder on tmpfs, such as one in /dev/shm, or allow it with `rings_on_any_file_system(true)`",
                path.display()
            ),
            Self::NotOurs { path, why } => {
                write!(f, "{} is not to be trusted: {why}; remove it, or keep the rings elsewhere", path.display())
            }
            Self::UringRefused { errno, remedy } => {
                write!(f, "the kernel refuses io_uring ({}): {remedy}", io::Error::from_raw_os_error(*errno))
            }
            Self::Io { what, path, source } => write!(f, "cannot {what} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for IoOpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
