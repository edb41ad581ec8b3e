//! The inspector beside a queue at work: what it reads changes between two reads.

use super::inspect::{Inspect, InspectEvent, Verified};
use super::meta::meta_copy_len;
use super::op::{FileId, Op};
use super::recovery::fake::{BLOCK, Fake, META, Store, config, pool, slot};
use super::recovery::{Corruption, ScanError};

/// What an inspection said.
#[derive(Debug, Default)]
struct Said {
    lsns: Vec<u64>,
    corrupt: Vec<Corruption>,
    failed: Option<ScanError>,
    verified: Verified,
    ops: u32,
}

impl Said {
    #[track_caller]
    fn assert_well(&self, case: &str) {
        assert!(self.failed.is_none() && self.corrupt.is_empty(), "{case}: {:?} {:?}", self.failed, self.corrupt);
        assert_eq!(self.verified.lost, 0, "{case}");
        assert!(self.lsns.is_sorted_by(|a, b| a < b), "{case}: an entry came twice: {:?}", self.lsns);
    }
}

/// Inspects; the queue is at work before each op, which is told by its number and its file.
fn inspect(disk: &mut Fake, mut queue: impl FnMut(u32, Option<FileId>, &mut Fake)) -> Said {
    let mut inspect = Inspect::new(config(), pool(), None);
    let mut said = Said::default();
    for _ in 0..10_000 {
        while let Some((token, op)) = inspect.poll_op() {
            let file = if let Op::Read { file, .. } = &op { Some(*file) } else { None };
            queue(said.ops, file, disk);
            said.ops += 1;
            inspect.handle_completion(disk.run(token, op));
        }
        match inspect.poll_event() {
            None | Some(InspectEvent::Survey(_)) => {}
            Some(InspectEvent::Frame(frame)) => {
                said.lsns.extend(frame.header.first_lsn.number()..frame.header.next_lsn.number());
            }
            Some(InspectEvent::Corrupt(corruption)) => said.corrupt.push(corruption),
            Some(InspectEvent::End(verified)) => {
                said.verified = verified;
                return said;
            }
            Some(InspectEvent::Locked { key, problem, .. }) => panic!("key {key}: {problem}"),
            Some(InspectEvent::Failed(error)) => {
                said.failed = Some(error);
                return said;
            }
        }
    }
    panic!("an inspection never ends");
}

/// Longer than any inspection here, in ops.
const OPS: u32 = 60;

/// The sample store when the sink has finished the first two segments, and the second one's slot has been
/// used again.
fn reused() -> Store {
    let mut store = Store::sample();
    store.write_cursor(20, 30).segment(1, 4, 31, 103, 30);
    store.disk.put(slot(1), 1024, &[9; 9 * 512]);
    store
}

#[test]
fn a_spare_slot_that_is_removed_while_the_log_is_surveyed_is_passed() {
    for at in 0..OPS {
        let mut disk = Store::sample().disk;
        disk.put(slot(3), 0, &vec![0; (BLOCK * 96) as usize]);
        let said = inspect(&mut disk, |number, _, disk| {
            if number == at {
                disk.files.remove(&slot(3));
            }
        });
        said.assert_well(&format!("removed before op {at}"));
        assert_eq!(said.lsns, Vec::from_iter(1..=30), "removed before op {at}");
    }
}

#[test]
fn a_delivered_segment_that_is_removed_while_it_is_read_is_passed() {
    for at in 0..OPS {
        let mut disk = Store::sample().disk;
        let mut later = Store::sample();
        later.write_cursor(20, 30);
        later.disk.files.remove(&slot(0));
        later.disk.files.remove(&slot(1));
        let said = inspect(&mut disk, |number, _, disk| {
            if number == at {
                disk.files.clone_from(&later.disk.files);
            }
        });
        said.assert_well(&format!("removed before op {at}"));
        assert!(said.lsns.ends_with(&Vec::from_iter(21..=30)), "removed before op {at}: {:?}", said.lsns);
    }
}

#[test]
fn copies_of_meta_and_cursor_that_are_both_being_written_are_read_again() {
    let border = usize::try_from(2 * meta_copy_len(BLOCK)).unwrap();
    for (name, place) in [("META", 0..border), ("cursor", border..usize::MAX)] {
        let mut disk = Store::sample().disk;
        let whole = disk.files[&META].clone();
        let torn: Vec<u8> =
            whole.iter().enumerate().map(|(i, byte)| if place.contains(&i) { !byte } else { *byte }).collect();
        let mut left = 3;
        let said = inspect(&mut disk, |_, file, disk| {
            if file == Some(META) {
                let bytes = if left > 0 { &torn } else { &whole };
                disk.files.insert(META, bytes.clone());
                left -= 1;
            }
        });
        said.assert_well(name);
        assert_eq!(said.lsns.len(), 30, "{name}");
        assert!((1..=3).contains(&said.verified.changed), "{name}: {:?}", said.verified);
        let said = inspect(&mut disk, |_, _, disk| _ = disk.files.insert(META, torn.clone()));
        assert!(
            matches!(said.failed, Some(ScanError::MetaUnreadable | ScanError::CursorUnreadable)),
            "{name}: torn for good: {:?}",
            said.failed
        );
    }
}

/// Whatever one read brings half written is whole the next time.
#[test]
fn nothing_that_one_read_brings_torn_is_called_corrupt() {
    for at in 0..OPS {
        for stripe in [1_usize, 3, 7] {
            let mut disk = Store::sample().disk;
            let whole = disk.files.clone();
            let said = inspect(&mut disk, |number, file, disk| {
                disk.files.clone_from(&whole);
                if let Some(file) = file.filter(|_| number == at) {
                    let blocks = disk.files.get_mut(&file).unwrap().chunks_mut(BLOCK as usize);
                    blocks.step_by(stripe).for_each(|block| block.iter_mut().for_each(|byte| *byte ^= 0x5a));
                }
            });
            said.assert_well(&format!("op {at}, every {stripe}th block"));
        }
    }
}

/// The headers must be looked at after the second bad read: before it they say nothing about it.
#[test]
fn a_slot_that_is_reused_after_one_torn_read_is_not_corrupt() {
    let later = reused();
    for torn in 0..OPS {
        for at in torn + 1..torn + 12 {
            let mut disk = Store::sample().disk;
            let before = disk.files.clone();
            let said = inspect(&mut disk, |number, file, disk| {
                disk.files.clone_from(if number >= at { &later.disk.files } else { &before });
                if let Some(file) = file.filter(|file| number == torn && *file != META) {
                    disk.files.get_mut(&file).unwrap().iter_mut().skip(1024).for_each(|byte| *byte ^= 0x5a);
                }
            });
            said.assert_well(&format!("torn at op {torn}, reused before op {at}"));
        }
    }
}

#[test]
fn what_is_lost_for_good_is_still_told_once_and_the_rest_is_read() {
    let mut store = Store::sample();
    store.rot(slot(0), 4).rot(slot(1), 2).rot(slot(1), 6);
    let said = inspect(&mut store.disk, |_, _, _| {});
    let corrupt: Vec<_> = said.corrupt.iter().map(|c| (c.first.number(), c.last.number())).collect();
    assert!(said.failed.is_none() && said.ops < OPS, "{said:?}");
    assert_eq!(said.lsns.len() as u64 + said.verified.lost, 30, "{corrupt:?}");
    assert_eq!(corrupt.iter().map(|(first, last)| last + 1 - first).sum::<u64>(), said.verified.lost);
    assert_eq!(corrupt.len(), 3, "{corrupt:?}");
}
