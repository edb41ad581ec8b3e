//! A device that fails, is slow, or does not answer, under a real file system (rows 9, 10, 13).

use std::time::Duration;

use ringwal::Io;

use super::check::check;
use super::device::{Faults, Rigged};
use super::machine::{Fs, Missing, need, on_a_real_machine, scratch, text, try_run, until};
use super::story::{Journal, Story};

/// What has to be in the journal of a story whose log failed: the cause for everybody, and nothing acknowledged later.
pub fn assert_failed(journal: &Journal) {
    let refused: Vec<&str> = journal.all("refused").collect();
    assert!(!refused.is_empty() && refused.iter().all(|said| said.contains("the log has failed")), "{refused:?}");
    let health: Vec<&str> = journal.all("health").collect();
    assert!(health[0].starts_with("Failed([LogFailed(") && health[0].contains("(os error 5)"), "{health:?}");
    let later: Vec<&str> = journal.all("later").collect();
    assert_eq!(later.len(), 40, "{later:?}");
    // The cause goes to whoever waits. A producer may have been pushing when the log failed, each of them even.
    for said in later {
        let is_told = said.starts_with("Err(Failed(") && said.contains("errno: 5");
        assert!(is_told || said.starts_with("PushError::Poisoned"), "{said}");
    }
    assert_eq!(journal.acks_at_stop, Some(journal.acks.len()), "something was acknowledged after the failure");
    assert!(journal.all("end").any(|said| said.starts_with("Err(Storage")), "{:?}", journal.last_lines());
}

/// Breaks the device under a story, and looks at what is left when it works again.
fn survives_errors(fs: Fs, is_periodic: bool, faults: Faults) -> Result<(), Missing> {
    let scratch = scratch();
    let rigged = Rigged::new(scratch.path(), fs, false)?;
    let story = Story { is_periodic, ..Story::new(&rigged.at().join("queue"), &scratch.path().join("journal")) };
    let mut player = story.start();
    player.until_acks(100);
    rigged.control.set(faults.clone());
    // It ends by itself: every producer is told.
    until("the child ends", || !player.is_running());
    let journal = player.finish();
    assert_failed(&journal);
    let (writes, flushes) = rigged.control.failed();
    println!(
        "{}: {} groups acknowledged, then {writes} writes and {flushes} flushes failed",
        fs.name(),
        journal.acks.len()
    );
    assert!(if faults.writes_fail { writes > 0 } else { flushes > 0 });
    let disk = rigged.replug()?;
    check(&story, &journal, &disk.at().join("queue"), u64::MAX);
    Ok(())
}

fn writes_fail() -> Faults {
    Faults { writes_fail: true, ..Faults::default() }
}

/// Only flushes fail, and what was not flushed is gone: the case in which a second flush that goes well lies.
fn cache_is_lost() -> Faults {
    Faults { flushes_fail: true, forgets: true, ..Faults::default() }
}

#[test]
fn a_device_whose_writes_fail_loses_nothing_that_was_acknowledged_on_ext4() {
    on_a_real_machine("EIO on writes, ext4, immediate", || survives_errors(Fs::Ext4, false, writes_fail()));
}

#[test]
fn a_device_whose_writes_fail_loses_nothing_that_was_acknowledged_on_xfs() {
    on_a_real_machine("EIO on writes, xfs, periodic", || survives_errors(Fs::Xfs, true, writes_fail()));
}

#[test]
fn a_sync_that_fails_and_loses_the_cache_is_the_end_of_the_log_on_ext4() {
    on_a_real_machine("EIO on flushes, ext4, periodic", || survives_errors(Fs::Ext4, true, cache_is_lost()));
}

#[test]
fn a_durable_write_whose_flush_fails_is_not_acknowledged_on_xfs() {
    on_a_real_machine("EIO on flushes, xfs, immediate", || survives_errors(Fs::Xfs, false, cache_is_lost()));
}

/// Flushes fail for a moment only: what the kernel then calls good must not be believed.
fn survives_a_moment_of_failing_flushes() -> Result<(), Missing> {
    let scratch = scratch();
    let rigged = Rigged::new(scratch.path(), Fs::Ext4, false)?;
    let story = Story { is_periodic: true, ..Story::new(&rigged.at().join("queue"), &scratch.path().join("journal")) };
    let mut player = story.start();
    player.until_acks(100);
    rigged.control.set(cache_is_lost());
    until("a flush fails", || rigged.control.failed().1 > 0);
    rigged.control.set(Faults::default());
    until("the child ends", || !player.is_running());
    let journal = player.finish();
    assert_failed(&journal);
    let disk = rigged.replug()?;
    check(&story, &journal, &disk.at().join("queue"), u64::MAX);
    Ok(())
}

#[test]
fn one_failed_sync_is_final_though_the_next_would_go_well() {
    on_a_real_machine("one failed flush, ext4", survives_a_moment_of_failing_flushes);
}

const PAGE_LEN: u64 = 4096;
/// What a queue with 8 MiB for frames may grow by while its disk stands still.
const GROWTH_MAX: u64 = 32 << 20;
/// What its process may have at all, the program and the rings included. Memory that is registered with io_uring is
/// there from the start, and does not grow.
const MEMORY_MAX: u64 = 256 << 20;

/// Pages of memory over time, and of how much was waiting then.
fn states(journal: &Journal) -> Vec<(u64, u64)> {
    let number = |word: &str| word.parse().unwrap();
    journal
        .all("state")
        .map(|said| said.split_once(' ').unwrap())
        .map(|(pending, rest)| (number(pending), number(rest.split(' ').next().unwrap())))
        .collect()
}

/// Memory stays where it was, however long pushes meet a full ring.
pub fn assert_memory_is_bounded(journal: &Journal) {
    let states = states(journal);
    let (first, most) = (states[0].1, states.iter().map(|(_, pages)| *pages).max().unwrap());
    let grown = (most - first) * PAGE_LEN;
    println!(
        "memory grew by {} KiB while up to {} entries waited",
        grown >> 10,
        states.iter().map(|s| s.0).max().unwrap()
    );
    assert!(grown < GROWTH_MAX, "memory grew by {grown} bytes: {states:?}");
    assert!(most * PAGE_LEN < MEMORY_MAX, "{} bytes of memory", most * PAGE_LEN);
}

/// A device that stops answering for some seconds, then goes on slowly, then well.
fn goes_on_after_a_hung_device(fs: Fs, is_periodic: bool, rejects: bool) -> Result<(), Missing> {
    let scratch = scratch();
    let rigged = Rigged::new(scratch.path(), fs, false)?;
    let story = Story {
        is_periodic,
        rejects,
        rest: if rejects { Duration::ZERO } else { Duration::from_millis(1) },
        delivers: true,
        ..Story::new(&rigged.at().join("queue"), &scratch.path().join("journal"))
    };
    let mut player = story.start();
    player.until_acks(50);
    rigged.control.set(Faults { hangs: true, ..Faults::default() });
    if rejects {
        player.until("a push is given back", |journal| journal.all("full").next().is_some());
    }
    player.until("health says that the disk is silent", |journal| {
        journal.all("state").any(|said| said.contains("DiskSilent"))
    });
    let before = player.journal();
    let states_then = before.all("state").count();
    player.until("time passes", |journal| journal.all("state").count() >= states_then + 100);
    let hung = player.journal();
    // Each producer may have been told of what was durable before, once; of nothing else.
    assert!(hung.acks.len() <= before.acks.len() + 3, "{} then {}", before.acks.len(), hung.acks.len());
    rigged.control.set(Faults { delay: Duration::from_millis(20), ..Faults::default() });
    player.until_acks(5);
    rigged.control.set(Faults::default());
    player.until_acks(50);
    let silent = |journal: &Journal| journal.all("state").last().is_none_or(|said| said.contains("DiskSilent"));
    player.until("health says no more that the disk is silent", |journal| !silent(journal));
    let journal = player.finish();
    assert_memory_is_bounded(&journal);
    assert!(journal.all("refused").next().is_none(), "{:?}", journal.last_lines());
    assert!(journal.all("end").all(|said| said.starts_with("Ok(")), "{:?}", journal.last_lines());
    let disk = rigged.replug()?;
    check(&story, &journal, &disk.at().join("queue"), u64::MAX);
    Ok(())
}

#[test]
fn a_hung_device_gives_pushes_back_and_then_goes_on_with_nothing_lost() {
    on_a_real_machine("hung and slow device, ext4, immediate", || goes_on_after_a_hung_device(Fs::Ext4, false, true));
}

#[test]
fn a_hung_device_holds_pushes_up_and_then_goes_on_with_nothing_lost() {
    on_a_real_machine("hung and slow device, xfs, periodic", || goes_on_after_a_hung_device(Fs::Xfs, true, false));
}

/// A killed process whose write hangs in the device keeps the directory: its write may still land, where the next
/// owner has begun something else.
fn keeps_the_lock_until_its_last_write(io: Io) -> Result<(), Missing> {
    need(&["flock"])?;
    let scratch = scratch();
    let rigged = Rigged::new(scratch.path(), Fs::Ext4, false)?;
    let story = Story { io, ..Story::new(&rigged.at().join("queue"), &scratch.path().join("journal")) };
    let mut player = story.start();
    player.until_acks(50);
    rigged.control.set(Faults { hangs: true, ..Faults::default() });
    until("a request hangs", || rigged.control.is_hanging());
    player.send_kill();
    // As long as that takes the lock is held. Asked by a program that goes no further, as who got it would be
    // caught by the hanging device.
    let lock = story.dir.join("LOCK");
    let is_kept_by_files = !matches!(io, Io::Auto | Io::Threads);
    for _ in 0..if is_kept_by_files { 0 } else { 50 } {
        assert!(try_run("flock", &["-n", text(&lock), "true"]).is_err(), "the lock is free, and a write is in flight");
        std::thread::sleep(Duration::from_millis(10));
    }
    let other = Story { groups: Some(0), journal: scratch.path().join("other"), ..story.clone() };
    let refused = Story { lock_wait: Duration::ZERO, ..other.clone() }.start().finish();
    let said = refused.all("unopened").next().unwrap_or_else(|| panic!("it was let in: {:?}", refused.lines));
    assert!(said.contains("is in use by process"), "{said}");
    rigged.control.set(Faults::default());
    let journal = player.kill();
    let opened = other.start().finish();
    assert!(opened.all("open").next().is_some(), "{:?}", opened.lines);
    let disk = rigged.replug()?;
    check(&story, &journal, &disk.at().join("queue"), u64::MAX);
    Ok(())
}

#[test]
fn a_killed_process_keeps_the_directory_until_its_last_write_has_ended() {
    on_a_real_machine("killed with a write in flight, io_uring", || keeps_the_lock_until_its_last_write(Io::Auto));
    on_a_real_machine("killed with a write in flight, threads", || keeps_the_lock_until_its_last_write(Io::Threads));
    #[cfg(feature = "tokio-uring")]
    on_a_real_machine("killed with a write in flight, tokio-uring", || {
        keeps_the_lock_until_its_last_write(Io::TokioUring)
    });
}
