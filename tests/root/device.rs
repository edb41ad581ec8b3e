//! A block device of the test's own: one file over FUSE, under a loop device.
//!
//! ```text
//!   ext4 ─► /dev/loopN ─► file "disk-in-fuse" ─► this thread ─► the backing file
//!                                                  │
//!                                                  ├─ records writes and flushes, in order
//!                                                  └─ fails, delays, hangs, forgets: see `Faults`
//! ```
//! The kernel speaks `linux/fuse.h` with it; the root of the mount is the file itself, so that no names are looked
//! up. Requests are answered one by one, hence what was answered before a flush lies before it in the recording.
//! Only child processes may touch what is mounted above: a thread of this process that waits for the disk at
//! this process's end would wait for ever.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::machine::{Disk, Fs, Loop, Missing, need_file_system, run, sparse_file, text, try_run};

/// What the device does wrong.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    /// Writes fail, and nothing is written.
    pub writes_fail: bool,
    /// Flushes fail.
    pub flushes_fail: bool,
    /// A failing flush drops what was written since the last good one: the drive's cache is gone.
    pub forgets: bool,
    /// Each write takes this long.
    pub delay: Duration,
    /// Nothing is answered.
    pub hangs: bool,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub enum Entry {
    Write { offset: u64, data: Vec<u8> },
    Flush,
}

/// What the test and the device's thread share.
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// The length of the recording, for the child to read: a file of eight bytes.
    counter: File,
}

struct State {
    faults: Faults,
    is_recording: bool,
    log: Vec<Entry>,
    /// What lay where something was written since the last good flush.
    undo: Vec<(u64, Vec<u8>)>,
    failed_writes: u64,
    failed_flushes: u64,
    /// A request waits for the end of the hang.
    is_hanging: bool,
}

impl Control {
    pub fn set(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
        self.changed.notify_all();
    }

    /// Writes and flushes that failed so far.
    pub fn failed(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap();
        (state.failed_writes, state.failed_flushes)
    }

    pub fn take_log(&self) -> Vec<Entry> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// Waits while it hangs; what it does wrong then.
    fn faults(&self) -> Faults {
        let mut state = self.state.lock().unwrap();
        while state.faults.hangs {
            state.is_hanging = true;
            state = self.changed.wait(state).unwrap();
        }
        state.is_hanging = false;
        state.faults.clone()
    }

    /// Whether a request waits for the end of a hang.
    pub fn is_hanging(&self) -> bool {
        self.state.lock().unwrap().is_hanging
    }

    fn write(&self, backing: &File, offset: u64, data: &[u8]) -> Result<(), i32> {
        let faults = self.faults();
        std::thread::sleep(faults.delay);
        let mut state = self.state.lock().unwrap();
        if faults.writes_fail {
            state.failed_writes += 1;
            return Err(libc::EIO);
        }
        let mut before = vec![0; data.len()];
        backing.read_exact_at(&mut before, offset).map_err(|_| libc::EIO)?;
        backing.write_all_at(data, offset).map_err(|_| libc::EIO)?;
        state.undo.push((offset, before));
        self.record(&mut state, || Entry::Write { offset, data: data.to_vec() });
        Ok(())
    }

    fn flush(&self, backing: &File) -> Result<(), i32> {
        let faults = self.faults();
        let mut state = self.state.lock().unwrap();
        if faults.flushes_fail {
            state.failed_flushes += 1;
            if faults.forgets {
                while let Some((offset, before)) = state.undo.pop() {
                    backing.write_all_at(&before, offset).map_err(|_| libc::EIO)?;
                }
            }
            return Err(libc::EIO);
        }
        state.undo.clear();
        self.record(&mut state, || Entry::Flush);
        Ok(())
    }

    /// The counter is written before the request is answered: who sees an answer reads a count that covers it.
    fn record(&self, state: &mut State, entry: impl FnOnce() -> Entry) {
        if state.is_recording {
            state.log.push(entry());
            self.counter.write_all_at(&(state.log.len() as u64).to_le_bytes(), 0).unwrap();
        }
    }
}

/// The file over FUSE.
struct Served {
    at: PathBuf,
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn new(backing: &Path, at: &Path, control: Arc<Control>) -> Result<Self, Missing> {
        let missing = |what: &str| Missing(format!("{what}: {}", std::io::Error::last_os_error()));
        let backing = File::options().read(true).write(true).open(backing).unwrap();
        let len = backing.metadata().unwrap().len();
        let fuse = File::options().read(true).write(true).open("/dev/fuse").map_err(|_| missing("/dev/fuse"))?;
        sparse_file(at, 0);
        let options = format!("fd={},rootmode=100000,user_id=0,group_id=0,allow_other", fuse.as_raw_fd());
        let [target, options] = [text(at), &options].map(|text| std::ffi::CString::new(text).unwrap());
        let (name, flags) = (c"ringwal-test", libc::MS_NOSUID | libc::MS_NODEV);
        // SAFETY: all strings end in zero and live until the call returns.
        let mounted =
            unsafe { libc::mount(name.as_ptr(), target.as_ptr(), c"fuse".as_ptr(), flags, options.as_ptr().cast()) };
        if mounted != 0 {
            return Err(missing("mounting FUSE"));
        }
        let served = Arc::clone(&control);
        let thread = std::thread::spawn(move || serve(&fuse, &backing, len, &served));
        Ok(Self { at: at.to_owned(), control, thread: Some(thread) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.control.set(Faults::default());
        let at = text(&self.at);
        if try_run("umount", &[at]).is_err()
            && let Err(error) = try_run("umount", &["-l", at])
        {
            eprintln!("left behind: {error}");
            return;
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A disk whose device is the test's own. Dropped from the top: mount, loop device, file.
pub struct Rigged {
    disk: Option<Disk>,
    served: Option<Served>,
    pub control: Arc<Control>,
    pub backing: PathBuf,
    scratch: PathBuf,
    pub fs: Fs,
}

impl Rigged {
    /// Formats a new disk, and mounts it over the device. With `recording`, a copy of the disk as it was before
    /// lies beside the backing file, as `start`.
    pub fn new(scratch: &Path, fs: Fs, recording: bool) -> Result<Self, Missing> {
        fs.need()?;
        let backing = scratch.join("backing");
        sparse_file(&backing, fs.disk_len());
        fs.make(&backing);
        Self::over(scratch, fs, recording)
    }

    /// The same over the disk that is there, as `backing`.
    pub fn over(scratch: &Path, fs: Fs, recording: bool) -> Result<Self, Missing> {
        need_file_system("fuse")?;
        let backing = scratch.join("backing");
        if recording {
            super::crash::copy(&backing, &scratch.join("start"));
        }
        let path = scratch.join("counter");
        std::fs::write(&path, [0; 8]).unwrap();
        let counter = File::options().write(true).open(&path).unwrap();
        let state = State {
            faults: Faults::default(),
            is_recording: recording,
            log: Vec::new(),
            undo: Vec::new(),
            failed_writes: 0,
            failed_flushes: 0,
            is_hanging: false,
        };
        let control = Arc::new(Control { state: Mutex::new(state), changed: Condvar::new(), counter });
        let at = scratch.join("disk-in-fuse");
        let served = Served::new(&backing, &at, Arc::clone(&control))?;
        let mut rigged = Self { disk: None, served: Some(served), control, backing, scratch: scratch.to_owned(), fs };
        rigged.disk = Some(Disk::on(Loop::new(&at)?, fs, &scratch.join("mnt")));
        Ok(rigged)
    }

    /// Changes mount options.
    pub fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), text(self.at())]);
    }

    pub fn at(&self) -> &Path {
        self.disk.as_ref().unwrap().at()
    }

    pub fn counter(&self) -> PathBuf {
        self.scratch.join("counter")
    }

    /// Takes everything apart; the backing file is what the device kept.
    pub fn unplug(&mut self) {
        self.control.set(Faults::default());
        self.disk = None;
        self.served = None;
    }

    /// Unplugs it, and mounts what it kept without the device in between.
    pub fn replug(mut self) -> Result<Disk, Missing> {
        self.unplug();
        Ok(Disk::on(Loop::new(&self.backing)?, self.fs, &self.scratch.join("again")))
    }
}

impl Drop for Rigged {
    fn drop(&mut self) {
        self.unplug();
    }
}

const HEADER_LEN: usize = 40;
const WRITE_LEN_MAX: usize = 128 << 10;

/// Answers requests until the file is unmounted.
fn serve(mut fuse: &File, backing: &File, len: u64, control: &Control) {
    let mut request = vec![0; WRITE_LEN_MAX + 4096];
    loop {
        let count = match fuse.read(&mut request) {
            Ok(count) => count,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
            // Interrupted, or the request was taken back.
            Err(_) => continue,
        };
        let request = &request[..count];
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let wide = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().unwrap());
        let body = HEADER_LEN;
        let answer = match word(4) {
            // FORGET, INTERRUPT and BATCH_FORGET have no answer.
            2 | 36 | 42 => continue,
            // GETATTR, SETATTR.
            3 | 4 => Ok(attributes(len)),
            // OPEN; FLUSH, RELEASE.
            14 => Ok(vec![0; 16]),
            25 | 18 => Ok(Vec::new()),
            // READ.
            15 => {
                control.faults();
                let (offset, size) = (wide(body + 8), word(body + 16) as usize);
                let mut data = vec![0; size.min(usize::try_from(len.saturating_sub(offset)).unwrap())];
                backing.read_exact_at(&mut data, offset).map(|()| data).map_err(|_| libc::EIO)
            }
            // WRITE.
            16 => {
                let (offset, size) = (wide(body + 8), word(body + 16));
                let data = &request[body + 40..body + 40 + size as usize];
                control.write(backing, offset, data).map(|()| [size.to_le_bytes(), [0; 4]].concat())
            }
            // FSYNC.
            20 => control.flush(backing).map(|()| Vec::new()),
            // INIT.
            26 => Ok(init()),
            _ => Err(libc::ENOSYS),
        };
        let (error, bytes) = match answer {
            Ok(bytes) => (0, bytes),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut reply = Vec::with_capacity(16 + bytes.len());
        reply.extend_from_slice(&u32::try_from(16 + bytes.len()).unwrap().to_le_bytes());
        reply.extend_from_slice(&error.to_le_bytes());
        reply.extend_from_slice(&request[8..16]);
        reply.extend_from_slice(&bytes);
        // The request may have been taken back meanwhile.
        let _ = fuse.write(&reply);
    }
}

/// `struct fuse_init_out`.
fn init() -> Vec<u8> {
    const BIG_WRITES: u32 = 1 << 5;
    let mut out = Vec::new();
    // Version 7.31; read-ahead; flags; background requests; length of a write; grain of times.
    for word in [7, 31, 128 << 10, BIG_WRITES, 12 << 16 | 16, WRITE_LEN_MAX as u32, 1] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.resize(64, 0);
    out
}

/// `struct fuse_attr_out` of a regular file.
fn attributes(len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    // Valid for an hour; inode; length; blocks; times.
    for wide in [3600, 0, 1, len, len / 512, 0, 0, 0] {
        out.extend_from_slice(&wide.to_le_bytes());
    }
    // Nanoseconds; mode; links; user; group; device; block; flags.
    for word in [0, 0, 0, libc::S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0_u32] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out
}
