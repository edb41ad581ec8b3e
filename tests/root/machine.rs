//! What a test takes from the machine, and gives back also when it panics: commands, loop devices, mounts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longer than anything here takes on a busy machine; what hangs fails instead of stopping everything.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Why a test cannot run here.
#[derive(Debug)]
pub struct Missing(pub String);

/// Runs a test, or says loudly why it does not run.
pub fn on_a_real_machine(name: &str, test: impl FnOnce() -> Result<(), Missing>) {
    let begun = Instant::now();
    match asked().and_then(|()| test()) {
        Ok(()) => println!("{name}: {:.1} s", begun.elapsed().as_secs_f64()),
        Err(Missing(why)) => println!("SKIPPED {name}: {why}"),
    }
}

fn asked() -> Result<(), Missing> {
    if std::env::var_os("RINGWAL_ROOT_TESTS").is_none_or(|value| value.is_empty() || value == "0") {
        return Err(Missing("RINGWAL_ROOT_TESTS is not set, and this mounts file systems".to_owned()));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Missing("needs root".to_owned()));
    }
    Ok(())
}

/// Demands programs; names the first that is missing.
pub fn need(programs: &[&str]) -> Result<(), Missing> {
    let folders = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    for program in programs {
        if !std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()) {
            return Err(Missing(format!("there is no `{program}`")));
        }
    }
    Ok(())
}

/// Demands a file system of the kernel.
pub fn need_file_system(name: &str) -> Result<(), Missing> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == name) {
        return Ok(());
    }
    // Where it is a module, mounting loads it; where there is none, the kernel cannot.
    match Command::new("modprobe").arg(name).output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Missing(format!("the kernel has no {name}"))),
    }
}

/// Runs a command; what it printed, or all that is known of its failure.
pub fn try_run(program: &str, args: &[&str]) -> Result<String, String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output: Output = Command::new(program)
        .args(args)
        .env("PATH", path)
        .output()
        .map_err(|error| format!("{program} {}: {error}", args.join(" ")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}: {}", args.join(" "), output.status, said.trim()))
}

/// Runs a command that has to work.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    try_run(program, args).unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory for a test's disks and mount points: in memory where there is enough, as hundreds of megabytes
/// are copied for each crash image.
pub fn scratch() -> TempDir {
    let large =
        |path: &Path| rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) > 4 << 30);
    let chosen = std::env::var_os("RINGWAL_ROOT_SCRATCH").map(PathBuf::from);
    let memory = Some(PathBuf::from("/dev/shm")).filter(|path| large(path));
    let base = chosen.or(memory).unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    tempfile::Builder::new().prefix("ringwal-root-").tempdir_in(base).unwrap()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file full of nothing, of this length.
pub fn sparse_file(path: &Path, len: u64) {
    std::fs::File::create(path).unwrap().set_len(len).unwrap();
}

/// A file system that can be put on a block device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fs {
    Ext4,
    /// The same driver without extents: it cannot reserve space.
    Ext2,
    Xfs,
    Btrfs,
}

impl Fs {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Ext2 => "ext2",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    pub fn need(self) -> Result<(), Missing> {
        need(&["losetup", "mount", "umount", &format!("mkfs.{}", self.name())])?;
        need_file_system(self.name())
    }

    /// Bytes of the smallest disk that is worth having.
    pub fn disk_len(self) -> u64 {
        match self {
            Self::Ext4 | Self::Ext2 => 256 << 20,
            // mkfs.xfs refuses less than 300 MB.
            Self::Xfs | Self::Btrfs => 320 << 20,
        }
    }

    /// Formats a file or device.
    pub fn make(self, on: &Path) {
        let on = text(on);
        match self {
            Self::Ext4 => run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0", on]),
            Self::Ext2 => run("mkfs.ext2", &["-q", "-F", "-b", "4096", "-E", "nodiscard", on]),
            Self::Xfs => run("mkfs.xfs", &["-q", "-f", "-K", on]),
            Self::Btrfs => run("mkfs.btrfs", &["-q", "-f", "-K", on]),
        };
    }
}

/// A loop device; detached when dropped.
pub struct Loop {
    pub path: PathBuf,
}

impl Loop {
    pub fn new(file: &Path) -> Result<Self, Missing> {
        Self::with_sectors(file, 512)
    }

    pub fn with_sectors(file: &Path, sector_len: u32) -> Result<Self, Missing> {
        let len = sector_len.to_string();
        match try_run("losetup", &["-f", "--show", "-b", &len, text(file)]) {
            Ok(path) => {
                let device = Self { path: PathBuf::from(path) };
                // What was set for another disk stays with the number of the device.
                device.set_cache("write back");
                Ok(device)
            }
            Err(error) => Err(Missing(format!("no loop device: {error}"))),
        }
    }

    /// Says whether the device has a volatile cache: "write back" or "write through".
    pub fn set_cache(&self, cache: &str) {
        std::fs::write(self.queue("write_cache"), cache).unwrap();
        assert_eq!(std::fs::read_to_string(self.queue("write_cache")).unwrap().trim(), cache);
    }

    /// A file below the device's `queue` in sysfs.
    pub fn queue(&self, name: &str) -> PathBuf {
        Path::new("/sys/block").join(self.path.file_name().unwrap()).join("queue").join(name)
    }

    /// Major and minor number, as cgroups want them.
    pub fn numbers(&self) -> String {
        let device = std::fs::metadata(&self.path).unwrap();
        let number = std::os::unix::fs::MetadataExt::rdev(&device);
        format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::fs::write(self.queue("write_cache"), "write back");
        if let Err(error) = try_run("losetup", &["-d", text(&self.path)]) {
            eprintln!("left behind: {error}");
        }
    }
}

/// A mounted file system; unmounted when dropped, lazily if it must be.
pub struct Mount {
    pub at: PathBuf,
}

impl Mount {
    pub fn new(device: &Path, fs: Fs, at: &Path) -> Self {
        Self::with(&["-t", fs.name(), text(device)], at).unwrap_or_else(|error| panic!("{error}"))
    }

    /// With any arguments of `mount`; the place comes last.
    pub fn with(args: &[&str], at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).unwrap();
        let mut args = args.to_vec();
        args.push(text(at));
        try_run("mount", &args)?;
        Ok(Self { at: at.to_owned() })
    }

    /// Unmounts it, and waits for that: a killed process may still be at its last write.
    pub fn unmount(self) {
        let at = self.at.clone();
        std::mem::forget(self);
        until("it can be unmounted", || try_run("umount", &[text(&at)]).is_ok());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let at = text(&self.at);
        for _ in 0..200 {
            if try_run("umount", &[at]).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = try_run("umount", &["-l", at]) {
            eprintln!("left behind: {error}");
        }
    }
}

/// A formatted disk in a file, on a loop device, mounted.
pub struct Disk {
    mount: Option<Mount>,
    pub device: Loop,
    pub fs: Fs,
    at: PathBuf,
}

impl Disk {
    /// Formats a new disk of this length below `scratch`.
    pub fn new(scratch: &Path, fs: Fs, len: u64) -> Result<Self, Missing> {
        fs.need()?;
        let file = scratch.join("disk");
        sparse_file(&file, len);
        let device = Loop::new(&file)?;
        fs.make(&device.path);
        Ok(Self::on(device, fs, &scratch.join("mnt")))
    }

    /// Mounts what is on a device.
    pub fn on(device: Loop, fs: Fs, at: &Path) -> Self {
        let mount = Some(Mount::new(&device.path, fs, at));
        Self { mount, device, fs, at: at.to_owned() }
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Unmounts and mounts it again.
    pub fn remount(&mut self) {
        if let Some(mount) = self.mount.take() {
            mount.unmount();
        }
        self.mount = Some(Mount::new(&self.device.path, self.fs, &self.at));
    }

    /// Somebody else has unmounted it.
    pub fn forget_mount(&mut self) {
        std::mem::forget(self.mount.take());
    }
}
