//! What openings gave up or found torn, as long as nobody may have been told: a part of META.
//!
//! ```text
//!   opening:  META (untold) ─► cursor, voids ─► META (epoch + 1, untold) ─► `open` returns ─► first push, or closing
//!                 what is lost is settled from here on ┘                                        └─► META (nothing)
//! ```
//! Whoever is cut off in between leaves it to the next opening, which finds nothing wrong any more and tells what stands
//! here. So it is told once at least; twice if the process dies between being told and doing anything.
//!
//! It rides on the writes of META that an opening makes in any case, but where nothing is to be repaired and a segment that is voided
//! shows that the end is torn: that is written down first. Where nothing is untold META is as it was before
//! there was this table, and no write is added. Bytes: `docs/FORMAT.md`. Decision: `docs/adr/0021-told-at-least-once.md`.

use crate::lsn::{Lsn, SlotNo};
use crate::ranges::Ranges;
use crate::wal::codec::{len_u32, put_u32, put_u64, u32_at, u64_at};
use crate::wal::recovery::TornTail;
use crate::wal::recovery::find::NUMBER_MAX;

/// Length of a copy of META that has the table: the least room that a copy has.
pub(crate) const META_WITH_UNTOLD_LEN: usize = 4096;
/// Where the table begins: behind META as it is without.
const TABLE: usize = 256;
/// Where its rows begin.
const ROWS: usize = TABLE + 48;
const ROW_LEN: usize = 16;
/// Most runs that it holds. Beyond that, runs are joined with what lies between them.
pub const UNTOLD_RUNS_MAX: usize = (META_WITH_UNTOLD_LEN - 4 - ROWS) / ROW_LEN;

const IS_JOINED: u32 = 1;
const IS_UNCLEAR: u32 = 2;

/// What was settled by openings, and perhaps told to nobody.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Untold {
    /// Entries that were given up: first LSN and one past the last, rising and apart.
    pub lost: Vec<(Lsn, Lsn)>,
    /// Runs were joined for want of room: what lies between them is not all lost.
    pub is_joined: bool,
    /// There was a table that makes no sense, under a checksum that holds: what it said is not known.
    pub is_unclear: bool,
    /// The last end that was cut by a crash.
    pub torn: Option<TornTail>,
    /// How many such ends.
    pub tears: u32,
}

impl Untold {
    /// Whether everything has been told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.torn.is_none() && !self.is_unclear
    }

    /// Adds what an opening gives up, and the end that it found torn.
    pub(crate) fn add(&mut self, lost: &[(Lsn, Lsn)], torn: Option<TornTail>) {
        let mut all = Ranges::new(Lsn::ZERO, std::mem::take(&mut self.lost));
        for (first, next) in lost {
            all.add(*first, *next);
        }
        self.lost = all.all();
        self.join();
        self.tears += u32::from(torn.is_some());
        self.torn = torn.or(self.torn);
    }

    /// Without what is there after all: the opening that wrote it down was cut off before it gave it up. `gone` is what
    /// is not there up to `end`.
    pub(crate) fn forget_what_is_there(&mut self, gone: &Ranges, end: Lsn) {
        let mut left = Vec::new();
        for (first, next) in self.lost.drain(..) {
            let parts = std::iter::once((Lsn::FIRST, gone.floor().next())).chain(gone.above().iter().copied());
            let behind = (end.next(), Lsn::new(NUMBER_MAX));
            let mut rest = Ranges::default();
            for (from, to) in parts.chain([behind]) {
                rest.add(first.max(from), next.min(to));
            }
            left.extend(rest.all());
        }
        self.lost = left;
    }

    /// Joins the runs that lie closest to each other until all fit.
    fn join(&mut self) {
        while self.lost.len() > UNTOLD_RUNS_MAX {
            let gap = |at: &usize| self.lost[at + 1].0.since(self.lost[*at].1);
            let Some(at) = (0..self.lost.len() - 1).min_by_key(gap) else { return };
            let (_, next) = self.lost.remove(at + 1);
            self.lost[at].1 = next;
            self.is_joined = true;
        }
    }

    /// Writes the table into a copy of META.
    pub(crate) fn encode(&self, out: &mut [u8]) {
        debug_assert!(self.lost.len() <= UNTOLD_RUNS_MAX);
        put_u32(out, TABLE, len_u32(self.lost.len()));
        let flags = (u32::from(self.is_joined) * IS_JOINED) | (u32::from(self.is_unclear) * IS_UNCLEAR);
        put_u32(out, TABLE + 4, flags);
        put_u32(out, TABLE + 8, if self.torn.is_some() { self.tears } else { 0 });
        if let Some(torn) = &self.torn {
            put_u32(out, TABLE + 12, torn.slot.0);
            put_u64(out, TABLE + 16, torn.end.number());
            put_u64(out, TABLE + 24, torn.offset);
            put_u64(out, TABLE + 32, torn.broken_frames);
            put_u64(out, TABLE + 40, torn.stranded_frames);
        }
        for (row, (first, next)) in self.lost.iter().enumerate() {
            put_u64(out, ROWS + row * ROW_LEN, first.number());
            put_u64(out, ROWS + row * ROW_LEN + 8, next.number());
        }
    }

    /// Reads the table of a copy of META whose checksum holds. What makes no sense is left out, and said.
    pub(crate) fn decode(meta: &[u8]) -> Self {
        let Some(rows) = meta.get(ROWS..META_WITH_UNTOLD_LEN - 4) else {
            return Self { is_unclear: true, ..Self::default() };
        };
        let (count, flags, tears) = (u32_at(meta, TABLE), u32_at(meta, TABLE + 4), u32_at(meta, TABLE + 8));
        let torn = TornTail {
            slot: SlotNo(u32_at(meta, TABLE + 12)),
            end: Lsn::new(u64_at(meta, TABLE + 16)),
            offset: u64_at(meta, TABLE + 24),
            broken_frames: u64_at(meta, TABLE + 32),
            stranded_frames: u64_at(meta, TABLE + 40),
        };
        let torn_holds = torn.end.number() < NUMBER_MAX;
        let rows = rows.chunks_exact(ROW_LEN).take(count as usize);
        let read: Vec<_> = rows.map(|row| (u64_at(row, 0), u64_at(row, 8))).collect();
        let sound = read.iter().filter(|(first, next)| 0 < *first && first < next && *next < NUMBER_MAX);
        let mut lost = Ranges::default();
        let sound = sound.map(|(first, next)| lost.add(Lsn::new(*first), Lsn::new(*next))).count();
        Self {
            lost: lost.all(),
            is_joined: flags & IS_JOINED != 0 && sound > 0,
            is_unclear: flags & IS_UNCLEAR != 0 || sound != count as usize || tears > 0 && !torn_holds,
            torn: (tears > 0 && torn_holds).then_some(torn),
            tears: if torn_holds { tears } else { 0 },
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn run(first: u64, next: u64) -> (Lsn, Lsn) {
        (Lsn::new(first), Lsn::new(next))
    }

    fn torn(end: u64) -> TornTail {
        TornTail { slot: SlotNo(3), offset: 4096, end: Lsn::new(end), broken_frames: 2, stranded_frames: 1 }
    }

    fn written(untold: &Untold) -> Vec<u8> {
        let mut out = vec![0; META_WITH_UNTOLD_LEN];
        untold.encode(&mut out);
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let mut untold = Untold::default();
        untold.add(&[run(1, 4), run(9, 10)], Some(torn(20)));
        untold.add(&[run(4, 6)], Some(torn(30)));
        assert_eq!((&untold.lost[..], untold.torn, untold.tears), (&[run(1, 6), run(9, 10)][..], Some(torn(30)), 2));
        assert_eq!(Untold::decode(&written(&untold)), untold);
        assert_eq!(Untold::decode(&written(&Untold::default())), Untold::default());
    }

    #[test]
    fn what_makes_no_sense_is_left_out_and_said() {
        let mut untold = Untold::default();
        untold.add(&[run(2, 4), run(9, 10)], None);
        for (at, number) in [(TABLE, 3), (ROWS, 0), (ROWS + 7, 0xff), (ROWS + 8, 1)] {
            let mut bytes = written(&untold);
            bytes[at] = number;
            let read = Untold::decode(&bytes);
            assert!(read.is_unclear && !read.is_empty() && read.lost.contains(&run(9, 10)), "{at}: {read:?}");
        }
        assert!(Untold::decode(&written(&untold)[..1000]).is_unclear);
    }

    #[test]
    fn too_many_runs_are_joined_where_they_are_closest_and_none_is_left_out() {
        let mut untold = Untold::default();
        let many: Vec<_> = (0..400).map(|n| run(n * 10 + 3, n * 10 + if n == 7 { 11 } else { 5 })).collect();
        untold.add(&many, None);
        assert!(untold.is_joined && untold.lost.len() == UNTOLD_RUNS_MAX);
        assert!(untold.lost.iter().any(|(first, next)| *first <= many[7].0 && many[8].1 <= *next), "they are closest");
        let is_in = |run: &(Lsn, Lsn)| untold.lost.iter().any(|(first, next)| *first <= run.0 && run.1 <= *next);
        assert!(many.iter().all(is_in));
        assert_eq!(Untold::decode(&written(&untold)), untold);
    }

    #[test]
    fn what_is_there_after_all_is_not_lost() {
        let mut untold = Untold::default();
        untold.add(&[run(2, 8), run(10, 30)], None);
        // 4 and 5 are given up, 12 is done; 6 to 11 and 13 to 19 are there.
        let gone = Ranges::new(Lsn::new(3), vec![run(4, 6), run(12, 13)]);
        untold.forget_what_is_there(&gone, Lsn::new(19));
        assert_eq!(untold.lost, [run(2, 6), run(12, 13), run(20, 30)]);
    }
}
