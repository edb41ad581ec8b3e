//! The file that holds rings in shared memory, and the name under which a store finds it again.
//!
//! ```text
//!   create   a folder in memory? ─► new file, mine alone ─► all of it allocated ─► header
//!   find     open ─► mine? ─► nobody else's now? ─► as long as its header says
//! ```
//! | what could go wrong | what is done |
//! |---|---|
//! | the memory runs out when a page is first touched, and the push dies of `SIGBUS` | `fallocate` takes it all at the start |
//! | somebody else has put a file or a link there | `O_EXCL`, `O_NOFOLLOW`; owner and rights are looked at |
//! | a copy of the store is opened beside it | a lock on the file, of the kind that a forked child does not share |
//! | the process dies while the file is made | the header is written last; without one there is nothing in it |
//! | the next run looks elsewhere | the store's directory holds the path, in the file `RINGS` |

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::io::dir::DIR_MODE;
use crate::io::{IoOpenError, probe};
use crate::ring::shared::{BootId, HEADER_LEN, Header, parse_boot_id};

/// Name of the file in a store's directory that says where its rings are.
const MARKER: &str = "RINGS";
const MARKER_NEW: &str = "RINGS.new";
const MARKER_LEN_MAX: u64 = 8192;

/// Something that holds a ring file's bytes. So that a test can stop at every write.
pub trait RingBytes {
    /// Reads all of `into` from `at` on.
    ///
    /// # Errors
    /// What the system says.
    fn read(&mut self, at: u64, into: &mut [u8]) -> std::io::Result<()>;

    /// Writes all of `bytes` from `at` on. Whoever reads after the death of this process sees a front part at least.
    ///
    /// # Errors
    /// What the system says.
    fn write(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()>;
}

/// A ring file of this process.
#[derive(Debug)]
pub struct RingFile {
    file: File,
    path: PathBuf,
}

impl RingBytes for RingFile {
    fn read(&mut self, at: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all_at(bytes, at)
    }
}

impl RingFile {
    /// Makes the file `name` in `dir`, which [`check_folder`] has seen.
    ///
    /// # Errors
    /// See [`IoOpenError`]. Nothing is left behind then.
    pub fn create(dir: &Path, name: &str, header: &Header) -> Result<Self, IoOpenError> {
        let path = dir.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| IoOpenError::on_create(&path, errno))?;
        if let Err(errno) = lock(&fd).and_then(|()| Self::fill(&fd, header)) {
            let _ = rustix::fs::unlink(&path);
            return Err(IoOpenError::new("allocate", &path, errno));
        }
        Ok(Self { file: File::from(fd), path })
    }

    fn fill(fd: &OwnedFd, header: &Header) -> Result<(), Errno> {
        let len = header.file_len();
        loop {
            match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                // ramfs cannot, and is filled by writing.
                Err(Errno::OPNOTSUPP) => {
                    let zeros = vec![0; 64 << 10];
                    let mut at = 0;
                    while at < len {
                        let part = usize::try_from((len - at).min(zeros.len() as u64)).unwrap_or(zeros.len());
                        at += rustix::io::pwrite(fd, &zeros[..part], at)? as u64;
                    }
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        let bytes = header.encode();
        let written = rustix::io::pwrite(fd, &bytes, 0)?;
        if written == bytes.len() { Ok(()) } else { Err(Errno::IO) }
    }

    /// Opens the file of this name, and gives what is at its start. `None`: there is none.
    ///
    /// # Errors
    /// It is another user's, or in use, or the kernel refuses.
    pub fn find(path: &Path) -> Result<Option<(Self, Vec<u8>)>, IoOpenError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(IoOpenError::new("open", path, errno)),
        };
        let refused = |why: &'static str| IoOpenError::NotOurs { path: path.to_path_buf(), why };
        let file = File::from(fd);
        let about =
            file.metadata().map_err(|source| IoOpenError::Io { what: "examine", path: path.to_path_buf(), source })?;
        match () {
            () if !about.is_file() => return Err(refused("it is no regular file")),
            () if about.uid() != rustix::process::geteuid().as_raw() => return Err(refused("another user owns it")),
            () if about.mode() & 0o077 != 0 => return Err(refused("other users may read or write it")),
            () => {}
        }
        lock(&file).map_err(|errno| match errno {
            Errno::ACCESS | Errno::AGAIN => IoOpenError::Locked { dir: path.to_path_buf(), pid: None },
            errno => IoOpenError::new("lock", path, errno),
        })?;
        let mut head = Vec::new();
        (&file).take(HEADER_LEN as u64).read_to_end(&mut head).map_err(|source| IoOpenError::Io {
            what: "read",
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Some((Self { file, path: path.to_path_buf() }, head)))
    }

    /// Length of the file now.
    ///
    /// # Errors
    /// What the system says.
    pub fn file_len(&self) -> std::io::Result<u64> {
        self.file.metadata().map(|about| about.len())
    }

    /// Whether both are one file, under whatever names.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |file: &File| file.metadata().map(|about| (about.dev(), about.ino())).ok();
        identity(&self.file) == identity(&other.file)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For mapping.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Removes the name: what is in it is not needed any more.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self) -> std::io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Puts the file aside, under a name that nobody looks for.
    ///
    /// # Errors
    /// What the system says.
    pub fn put_aside(&self) -> std::io::Result<PathBuf> {
        let mut number = 1_u32;
        loop {
            let aside = self.path.with_extension(format!("left-{number}"));
            match rustix::fs::renameat_with(
                rustix::fs::CWD,
                &self.path,
                rustix::fs::CWD,
                &aside,
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                Ok(()) => return Ok(aside),
                Err(Errno::EXIST) => number = number.checked_add(1).ok_or(ErrorKind::AlreadyExists)?,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A lock that belongs to the process, not to the descriptor: a forked child has none of it.
fn lock(fd: impl AsFd) -> Result<(), Errno> {
    rustix::fs::fcntl_lock(fd, FlockOperation::NonBlockingLockExclusive)
}

/// Whether rings may lie in `dir`, which is created if it is missing: the name of its file system, where that is none in
/// memory and is allowed all the same.
///
/// # Errors
/// It is not in memory, or cannot be had.
pub fn check_folder(dir: &Path, on_any_file_system: bool) -> Result<Option<String>, IoOpenError> {
    let open = || rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let opened = match open() {
        Err(Errno::NOENT) => match rustix::fs::mkdir(dir, DIR_MODE) {
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(errno) => return Err(IoOpenError::on_create(dir, errno)),
        },
        other => other,
    };
    let fd = opened.map_err(|errno| IoOpenError::new("create", dir, errno))?;
    let about = rustix::fs::fstatfs(&fd).map_err(|errno| IoOpenError::new("examine", dir, errno))?;
    // The same number on every platform, whatever its type.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a magic number has 32 bits")]
    match probe::not_in_memory(about.f_type as u32) {
        Some(file_system) if !on_any_file_system => {
            Err(IoOpenError::NotInMemory { path: dir.to_path_buf(), file_system })
        }
        allowed => Ok(allowed),
    }
}

/// Which running of the machine this is.
///
/// # Errors
/// The kernel does not say.
pub fn boot_id() -> Result<BootId, IoOpenError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let failed = |source| IoOpenError::Io { what: "read", path: path.to_path_buf(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse_boot_id(&text).ok_or_else(|| failed(ErrorKind::InvalidData.into()))
}

/// Where the rings of the store in `dir` are, if it says so.
///
/// # Errors
/// What it says cannot be read.
pub fn read_marker(dir: &Path) -> Result<Option<PathBuf>, IoOpenError> {
    let path = dir.join(MARKER);
    let failed = |source: Error| IoOpenError::Io { what: "read", path: path.clone(), source };
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(MARKER_LEN_MAX).read_to_end(&mut bytes).map_err(failed)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let Some(path) = bytes.strip_suffix(b"\n").filter(|path| path.starts_with(b"/") && !path.contains(&0)) else {
        // Written whole or not at all, unless the machine died: then the rings died with it.
        return Ok(None);
    };
    Ok(Some(std::ffi::OsString::from_vec(path.to_vec()).into()))
}

/// Makes the store in `dir` say where its rings are, or that there are none.
///
/// # Errors
/// What the system says.
pub fn write_marker(dir: &Path, rings: Option<&Path>) -> Result<(), IoOpenError> {
    let path = dir.join(MARKER);
    let failed = |source: Error| IoOpenError::Io { what: "write", path: path.clone(), source };
    let Some(rings) = rings else {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
    };
    let new = dir.join(MARKER_NEW);
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(rings.as_os_str().as_bytes())?;
        file.write_all(b"\n")?;
        std::fs::rename(&new, &path)
    };
    write().map_err(failed)
}

/// `path` from the root.
///
/// # Errors
/// There is no working directory.
pub fn absolute(path: &Path) -> Result<PathBuf, IoOpenError> {
    std::path::absolute(path).map_err(|source| IoOpenError::Io { what: "find", path: path.to_path_buf(), source })
}
