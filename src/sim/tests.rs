//! What `trait Disk` promises, on the simulated disk; and what only the simulation can do.

use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::io::Disk;
use crate::lsn::SlotNo;
use crate::wal::block::{Block, Pool};
use crate::wal::op::{Completion, FileId, LogId, Op, Output, Owner, Token};

const SLOT: FileId = FileId::Slot(LogId::Main, SlotNo(0));
const OTHER: FileId = FileId::Slot(LogId::Main, SlotNo(1));

const fn token(number: u32) -> Token {
    Token { owner: Owner::Log(LogId::Main), number }
}

fn pool() -> Pool {
    Pool::new(64, 8192).unwrap()
}

fn block(pool: &Pool, fill: u8, len: usize) -> Block {
    let mut block = pool.take().unwrap();
    block.truncate(len);
    block.fill(fill);
    block.freeze()
}

fn machine(kind: DiskKind, seed: u64) -> SimDisk {
    let machine = SimDisk::new(SimSettings { kind, seed, garbage: false, ..SimSettings::default() });
    machine.set_file(SLOT, Some(vec![0; 8192]));
    machine.set_file(OTHER, Some(vec![0; 8192]));
    machine
}

fn write(pool: &Pool, fill: u8, offset: u64, len: usize, dsync: bool) -> Op {
    Op::Write { file: SLOT, offset, block: block(pool, fill, len), dsync }
}

/// Carries one op out, alone.
fn carry_out(driver: &mut SimDriver, op: Op) -> Result<Output, i32> {
    driver.submit(token(99), op);
    let completion = driver.complete(None).expect("an op that is in flight ends");
    assert_eq!(completion.token, token(99));
    completion.result.map_err(|e| e.errno)
}

fn read(driver: &mut SimDriver, pool: &Pool, file: FileId, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
    let mut block = pool.take().unwrap();
    block.truncate(len);
    block.fill(0xee);
    match carry_out(driver, Op::Read { file, offset, block })? {
        Output::Bytes(block) => Ok(block.to_vec()),
        other => panic!("{other:?}"),
    }
}

fn tokens(driver: &mut SimDriver) -> Vec<u32> {
    std::iter::from_fn(|| driver.complete(Some(Duration::ZERO))).map(|c| c.token.number).collect()
}

#[test]
fn what_was_written_is_read_back_and_zeros_lie_beyond_the_end() {
    let (machine, pool) = (machine(DiskKind::Flush, 1), pool());
    let mut driver = machine.connect().unwrap();
    assert!(matches!(carry_out(&mut driver, write(&pool, 7, 512, 1024, false)), Ok(Output::Done)));
    let got = read(&mut driver, &pool, SLOT, 0, 2048).unwrap();
    assert_eq!((got[511], got[512], got[1535], got[1536]), (0, 7, 7, 0));
    let beyond = read(&mut driver, &pool, SLOT, 8192 - 512, 1024).unwrap();
    assert!(beyond.iter().all(|b| *b == 0));
    assert_eq!(read(&mut driver, &pool, FileId::Meta(LogId::Main), 0, 512), Err(libc::ENOENT));
}

#[test]
fn completions_come_in_every_order_and_each_exactly_once() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let (machine, pool) = (machine(DiskKind::Flush, seed), pool());
        let mut driver = machine.connect().unwrap();
        for number in 0..3 {
            driver.submit(token(number), write(&pool, 1, u64::from(number) * 512, 512, true));
        }
        assert!(driver.complete(Some(Duration::ZERO)).is_none(), "nothing ends before a step");
        while machine.step() {}
        orders.insert(tokens(&mut driver));
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn a_block_goes_back_to_its_pool_when_the_op_is_over() {
    let (machine, pool) = (machine(DiskKind::Flush, 1), pool());
    let mut driver = machine.connect().unwrap();
    driver.submit(token(0), write(&pool, 1, 0, 512, true));
    assert_eq!(pool.free(), 63);
    machine.step();
    drop(driver.complete(Some(Duration::ZERO)));
    assert_eq!(pool.free(), 64);
    driver.submit(token(1), write(&pool, 1, 0, 512, true));
    machine.crash();
    drop(driver);
    assert_eq!(pool.free(), 64, "a crash frees what was in flight");
}

#[test]
fn a_durable_write_survives_every_crash_and_an_unsynced_one_does_not_always() {
    for kind in [DiskKind::Flush, DiskKind::Fua] {
        let mut lost = 0;
        for seed in 0..60 {
            let (machine, pool) = (machine(kind, seed), pool());
            let mut driver = machine.connect().unwrap();
            carry_out(&mut driver, write(&pool, 1, 0, 512, true)).unwrap();
            carry_out(&mut driver, write(&pool, 2, 512, 512, false)).unwrap();
            machine.crash();
            let bytes = machine.file(SLOT).unwrap();
            assert_eq!(bytes[0], 1, "seed {seed}");
            lost += u32::from(bytes[512] == 0);
        }
        assert!((10..50).contains(&lost), "lost {lost} of 60");
    }
}

#[test]
fn only_without_fua_a_durable_write_saves_what_completed_before_it() {
    for (kind, saved_always) in [(DiskKind::Flush, true), (DiskKind::Fua, false)] {
        let saved = (0..40).filter(|seed| {
            let (machine, pool) = (machine(kind, *seed), pool());
            let mut driver = machine.connect().unwrap();
            carry_out(&mut driver, write(&pool, 1, 0, 512, false)).unwrap();
            carry_out(&mut driver, write(&pool, 2, 512, 512, true)).unwrap();
            machine.crash();
            machine.file(SLOT).unwrap()[0] == 1
        });
        assert_eq!(saved.count() == 40, saved_always, "{kind:?}");
    }
}

#[test]
fn a_durable_write_is_not_undone_by_an_older_cached_one_on_its_sectors() {
    for seed in 0..40 {
        let (machine, pool) = (machine(DiskKind::Fua, seed), pool());
        let mut driver = machine.connect().unwrap();
        carry_out(&mut driver, write(&pool, 1, 0, 1024, false)).unwrap();
        carry_out(&mut driver, write(&pool, 2, 512, 512, true)).unwrap();
        assert_eq!(read(&mut driver, &pool, SLOT, 512, 512).unwrap()[0], 2);
        if seed % 2 == 0 {
            carry_out(&mut driver, Op::Sync { file: SLOT }).unwrap();
        }
        machine.crash();
        assert_eq!(machine.file(SLOT).unwrap()[512], 2);
    }
}

#[test]
fn a_sync_covers_what_completed_before_it_and_no_write_in_flight() {
    let mut lost = [0; 2];
    for seed in 0..60 {
        let (machine, pool) = (machine(DiskKind::Fua, seed), pool());
        let mut driver = machine.connect().unwrap();
        carry_out(&mut driver, write(&pool, 1, 0, 512, false)).unwrap();
        driver.submit(token(1), write(&pool, 2, 512, 512, false));
        driver.submit(token(2), Op::Sync { file: SLOT });
        let write = machine.in_flight()[0].number;
        // The write completes while the sync is in flight: it may be covered, it need not be.
        if seed % 2 == 0 {
            machine.finish(write);
        }
        machine.finish(write + 1);
        machine.crash();
        let bytes = machine.file(SLOT).unwrap();
        assert_eq!(bytes[0], 1);
        lost[usize::from(seed % 2 == 0)] += u32::from(bytes[512] == 0);
    }
    assert!(lost[0] > 5 && lost[1] > 5, "{lost:?}");
}

#[test]
fn on_a_fua_machine_a_sync_is_sure_of_its_own_file_only() {
    let lost = (0..40).filter(|seed| {
        let (machine, pool) = (machine(DiskKind::Fua, *seed), pool());
        let mut driver = machine.connect().unwrap();
        carry_out(&mut driver, write(&pool, 1, 0, 512, false)).unwrap();
        carry_out(&mut driver, Op::Sync { file: OTHER }).unwrap();
        machine.crash();
        machine.file(SLOT).unwrap()[0] == 0
    });
    assert!(lost.count() > 5);
}

#[test]
fn a_power_cut_tears_at_every_sector_and_loses_later_writes_before_earlier_ones() {
    let (mut tears, mut reordered) = (std::collections::BTreeSet::new(), false);
    for seed in 0..400 {
        let (machine, pool) = (machine(DiskKind::Flush, seed), pool());
        let mut driver = machine.connect().unwrap();
        driver.submit(token(0), write(&pool, 1, 0, 1536, true));
        driver.submit(token(1), write(&pool, 2, 1536, 512, true));
        machine.crash();
        let bytes = machine.file(SLOT).unwrap();
        let kept: Vec<bool> = (0..4).map(|sector| bytes[sector * 512] != 0).collect();
        reordered |= kept == [false, false, false, true];
        tears.insert(kept[..3].to_vec());
    }
    assert_eq!(tears.len(), 8, "every mixture of three sectors");
    assert!(reordered);
}

#[test]
fn a_test_can_decide_the_fate_of_every_sector() {
    let (machine, pool) = (machine(DiskKind::Fua, 0), pool());
    let mut driver = machine.connect().unwrap();
    carry_out(&mut driver, write(&pool, 1, 0, 1024, false)).unwrap();
    driver.submit(token(1), write(&pool, 2, 1024, 1024, true));
    assert_eq!(machine.unstable().iter().map(|w| w.completed).collect::<Vec<_>>(), [true, false]);
    let copy = machine.copy(5);
    machine.crash_with(|_, sector| if sector == 1 { SectorFate::Kept } else { SectorFate::Lost });
    let sectors = |machine: &SimDisk| machine.file(SLOT).unwrap().chunks(512).take(4).map(|s| s[0]).collect::<Vec<_>>();
    assert_eq!(sectors(&machine), [0, 1, 0, 2]);
    copy.crash_with(|write, _| if write.completed { SectorFate::Lost } else { SectorFate::Kept });
    assert_eq!(sectors(&copy), [0, 0, 2, 2]);
}

#[test]
fn a_killed_process_leaves_what_completed_readable_and_at_stake() {
    let mut lost = 0;
    for seed in 0..40 {
        let (machine, pool) = (machine(DiskKind::Fua, seed), pool());
        let mut driver = machine.connect().unwrap();
        carry_out(&mut driver, write(&pool, 1, 0, 512, false)).unwrap();
        machine.kill();
        let mut next = machine.connect().unwrap();
        assert_eq!(read(&mut next, &pool, SLOT, 0, 512).unwrap()[0], 1);
        machine.crash();
        lost += u32::from(machine.file(SLOT).unwrap()[0] == 0);
    }
    assert!((5..35).contains(&lost), "{lost}");
}

#[test]
fn a_prepared_file_is_whole_and_durable_or_anything_shorter() {
    let file = FileId::Slot(LogId::Main, SlotNo(7));
    let mut shapes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let (machine, pool) = (machine(DiskKind::Fua, seed), pool());
        let mut driver = machine.connect().unwrap();
        driver.submit(token(0), Op::Prepare { file, len: 4096, mark: block(&pool, 9, 1024), urgent: true });
        if seed % 2 == 0 {
            machine.step();
            machine.crash();
            let bytes = machine.file(file).expect("complete means durable");
            assert!(
                bytes.len() == 4096 && bytes[..1024].iter().all(|b| *b == 9) && bytes[1024..].iter().all(|b| *b == 0)
            );
        } else {
            machine.crash();
            let shape = match machine.file(file) {
                None => "absent",
                Some(bytes) if bytes.len() < 4096 => "short",
                Some(bytes) if bytes[0] == 0 && bytes[512] == 0 => "zeros",
                Some(bytes) if bytes[0] == 9 && bytes[512] == 9 => "whole",
                Some(_) => "torn mark",
            };
            shapes.insert(shape);
        }
    }
    assert_eq!(shapes.len(), 5, "{shapes:?}");
}

#[test]
fn errors_strike_at_the_op_they_were_meant_for() {
    let (machine, pool) = (machine(DiskKind::Flush, 3), pool());
    let mut driver = machine.connect().unwrap();
    machine.inject(Fault::error(OpKind::Write, libc::EIO).after(1).on(SLOT));
    machine.inject(Fault::error(OpKind::Sync, libc::ENOSPC).forever());
    assert!(carry_out(&mut driver, write(&pool, 1, 0, 512, true)).is_ok());
    assert_eq!(carry_out(&mut driver, write(&pool, 2, 512, 512, true)).err(), Some(libc::EIO));
    assert!(carry_out(&mut driver, write(&pool, 3, 1024, 512, true)).is_ok());
    for _ in 0..2 {
        assert_eq!(carry_out(&mut driver, Op::Sync { file: SLOT }).err(), Some(libc::ENOSPC));
    }
    machine.heal();
    assert!(carry_out(&mut driver, Op::Sync { file: SLOT }).is_ok());
    machine.make_unreadable(SLOT, 2048..2560);
    assert_eq!(read(&mut driver, &pool, SLOT, 1024, 2048), Err(libc::EIO));
    assert!(read(&mut driver, &pool, SLOT, 0, 1024).is_ok());
    carry_out(&mut driver, write(&pool, 1, 2048, 512, true)).unwrap();
    assert!(read(&mut driver, &pool, SLOT, 1024, 2048).is_ok(), "writing heals a bad sector");
}

#[test]
fn a_lost_write_says_done_and_a_misdirected_one_goes_elsewhere() {
    let (machine, pool) = (machine(DiskKind::Flush, 3), pool());
    let mut driver = machine.connect().unwrap();
    machine.inject(Fault::lost());
    assert!(carry_out(&mut driver, write(&pool, 1, 0, 512, true)).is_ok());
    assert_eq!(machine.file(SLOT).unwrap()[0], 0);
    machine.inject(Fault::misdirected(OTHER, 1024));
    assert!(carry_out(&mut driver, write(&pool, 2, 0, 512, true)).is_ok());
    assert_eq!((machine.file(SLOT).unwrap()[0], machine.file(OTHER).unwrap()[1024]), (0, 2));
    machine.rot(OTHER, 1024, 0x10);
    assert_eq!(machine.file(OTHER).unwrap()[1024], 0x12);
}

#[test]
fn a_full_disk_refuses_to_prepare_until_something_is_removed() {
    let (machine, pool) = (machine(DiskKind::Flush, 3), pool());
    machine.set_space(Some(20_000));
    let mut driver = machine.connect().unwrap();
    let prepare = |file| Op::Prepare { file, len: 8192, mark: block(&pool, 1, 1024), urgent: false };
    let third = FileId::Slot(LogId::Main, SlotNo(2));
    assert_eq!(carry_out(&mut driver, prepare(third)).err(), Some(libc::ENOSPC));
    assert!(carry_out(&mut driver, prepare(OTHER)).is_ok(), "one that is there takes no more");
    assert!(carry_out(&mut driver, Op::Remove { file: SLOT }).is_ok());
    assert!(carry_out(&mut driver, prepare(third)).is_ok());
    match carry_out(&mut driver, Op::List { log: LogId::Main }) {
        Ok(Output::Files(files)) => assert_eq!(files, [(OTHER, 8192), (third, 8192)]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_second_connection_is_refused_and_a_dead_one_answers_with_errors() {
    let (machine, pool) = (machine(DiskKind::Flush, 3), pool());
    let mut driver = machine.connect().unwrap();
    assert_eq!(machine.connect().err(), Some(InUse));
    driver.submit(token(1), write(&pool, 1, 0, 512, true));
    machine.crash();
    let mut next = machine.connect().unwrap();
    driver.submit(token(2), write(&pool, 2, 0, 512, true));
    for number in [1, 2] {
        let Completion { token: of, result } = driver.complete(Some(Duration::ZERO)).unwrap();
        assert_eq!((of, result.unwrap_err().errno), (token(number), libc::ENODEV));
    }
    assert!(driver.complete(None).is_none(), "and then it is silent");
    drop(driver);
    assert!(carry_out(&mut next, write(&pool, 3, 0, 512, true)).is_ok(), "the new one is not touched by it");
    assert_eq!(machine.file(SLOT).unwrap()[0], 3);
}

#[test]
fn dropping_a_living_connection_waits_for_what_is_in_flight() {
    let (machine, pool) = (machine(DiskKind::Fua, 3), pool());
    let mut driver = machine.connect().unwrap();
    driver.submit(token(1), write(&pool, 1, 0, 512, true));
    drop(driver);
    assert!(machine.connect().is_ok());
    machine.crash();
    assert_eq!(machine.file(SLOT).unwrap()[0], 1);
}

#[test]
#[should_panic(expected = "two ops on the same bytes")]
fn ops_on_the_same_bytes_in_flight_together_are_a_mistake_of_the_log() {
    let (machine, pool) = (machine(DiskKind::Flush, 3), pool());
    let mut driver = machine.connect().unwrap();
    driver.submit(token(1), write(&pool, 1, 0, 1024, true));
    driver.submit(token(2), write(&pool, 2, 512, 512, true));
}

#[test]
fn history_tells_which_ops_were_in_flight_together() {
    let (machine, pool) = (machine(DiskKind::Flush, 3), pool());
    let mut driver = machine.connect().unwrap();
    driver.submit(token(1), write(&pool, 1, 0, 512, true));
    machine.step();
    driver.submit(token(2), write(&pool, 2, 512, 512, false));
    driver.submit(token(3), Op::Sync { file: SLOT });
    machine.step();
    machine.step();
    let history = machine.history();
    assert!(!history[0].overlaps(&history[1]) && history[1].overlaps(&history[2]));
    assert_eq!((history[1].offset, history[1].len, history[1].dsync, history[1].head[0]), (512, 512, false, 2));
    assert_eq!(history[2].kind, OpKind::Sync);
}

#[test]
fn a_seed_repeats_a_history_exactly() {
    let run = |seed| {
        let machine = SimDisk::new(SimSettings { seed, mode: Mode::Seeded, ..SimSettings::default() });
        machine.set_file(SLOT, Some(vec![0; 8192]));
        let pool = pool();
        let mut driver = machine.connect().unwrap();
        let mut seen = Vec::new();
        for number in 0..16 {
            driver.submit(token(number), write(&pool, 1, u64::from(number) * 512, 512, number % 3 == 0));
            if let Some(completion) = driver.complete(Some(Duration::ZERO)) {
                seen.push(completion.token.number);
            }
        }
        machine.crash();
        (seen, machine.file(SLOT).unwrap())
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4).0, run(5).0);
}

#[test]
fn with_a_clock_an_op_takes_as_long_as_the_device() {
    let clock = ManualClock::new();
    let millis = Duration::from_millis(2);
    let settings = SimSettings { latency: (millis, millis), clock: clock.clone(), ..SimSettings::default() };
    let machine = SimDisk::new(settings);
    machine.set_file(SLOT, Some(vec![0; 8192]));
    let mut driver = machine.connect().unwrap();
    driver.submit(token(1), write(&pool(), 1, 0, 512, true));
    assert!(!machine.step());
    clock.advance(millis);
    assert!(machine.step() && driver.complete(Some(Duration::ZERO)).is_some());
}

fn threaded(latency: Duration) -> SimDisk {
    let settings = SimSettings { mode: Mode::Threaded, latency: (latency, latency), ..SimSettings::default() };
    let machine = SimDisk::new(settings);
    machine.set_file(SLOT, Some(vec![0; 8192]));
    machine
}

#[test]
fn a_thread_waits_for_completions_as_long_as_they_take() {
    let machine = threaded(Duration::from_millis(20));
    let mut driver = machine.connect().unwrap();
    let begun = std::time::Instant::now();
    driver.submit(token(1), write(&pool(), 1, 0, 512, true));
    assert!(driver.complete(Some(Duration::ZERO)).is_none());
    assert!(driver.complete(None).is_some());
    assert!(begun.elapsed() >= Duration::from_millis(20));
    assert!(driver.complete(Some(Duration::from_millis(1))).is_none(), "a wait without work ends in time");
}

#[test]
fn the_doorbell_ends_a_wait_and_a_ring_before_it_is_not_lost() {
    let machine = threaded(Duration::ZERO);
    let mut driver = machine.connect().unwrap();
    let bell = driver.doorbell();
    bell.wake();
    assert!(driver.complete(None).is_none(), "it rang before");
    let (sender, receiver) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let nothing = driver.complete(None).is_none();
        sender.send(nothing).unwrap();
    });
    assert!(receiver.recv_timeout(Duration::from_millis(20)).is_err(), "it waits until somebody rings");
    bell.wake();
    assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap());
    waiter.join().unwrap();
}

#[test]
fn a_crash_ends_the_wait_of_a_thread_with_errors() {
    let machine = threaded(Duration::from_secs(3600));
    let mut driver = machine.connect().unwrap();
    driver.submit(token(1), write(&pool(), 1, 0, 512, true));
    let waiter = std::thread::spawn(move || driver.complete(None).map(|c| c.result.unwrap_err().errno));
    std::thread::sleep(Duration::from_millis(10));
    machine.crash();
    assert_eq!(waiter.join().unwrap(), Some(libc::ENODEV));
}
