//! What a branch has: a note in its directory, from which the next opening counts.
//!
//! ```text
//!   the note     all up to `copied` is in the branch; from its LSN `from` on come copied + 1, copied + 2, …
//!   the branch   … │ from │ from + 1 │ … │ end
//!   has          copied + (end - from + 1)
//! ```
//! It is written when the count begins, never for an entry: the branch's own log tells how far it has come, and what a
//! crash has left of it. An entry of the source is so in the branch once, whatever dies when:
//!
//! | the note says              | and is written                                                                   |
//! |----------------------------|----------------------------------------------------------------------------------|
//! | `copied`, nothing counted  | by an opening, once it has looked at the log, before it changes anything there    |
//! | `copied`, counted `from`   | once the branch is open; and where the source's numbers have a gap                |
//! | `copied`, nothing counted  | before parked entries are put back, as they are no copies; then it counts again   |
//!
//! | what an opening finds                             | what the branch has, and why                               |
//! |---------------------------------------------------|------------------------------------------------------------|
//! | no note, or half of one                           | nothing: it is new                                         |
//! | a note of another source, or of another branch    | nothing: one of the two was replaced                       |
//! | a note that counts, of the opening that wrote last | by the count: only copies have come since                 |
//! | the same, but the log is damaged                  | `copied`: its end is no count                              |
//! | a note that counts, and somebody has opened since | `copied`: he may have put in entries of his own            |
//! | a note that does not count                        | `copied`: the last opening, or redelivery, did not end     |
//!
//! Where it tells less than the branch has, entries come twice: those that the source has not noted as copied, the last
//! moment's. It never tells more.

use crate::lsn::Lsn;
use crate::recovery::{Incarnation, Look};
use crate::wal::codec::{array_at, crc, put_u32, put_u64, u32_at, u64_at};

/// Length of a note in bytes.
pub(crate) const NOTE_LEN: usize = 72;
const MAGIC: &[u8; 8] = b"RWALCOPY";
/// Where the checksum lies: over all that comes before.
const SUM_AT: usize = NOTE_LEN - 4;

/// What a branch has of its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    /// Identity of the store that is copied from.
    pub(crate) source: [u8; 16],
    /// The opening of the branch that has written it.
    pub(crate) branch: Incarnation,
    /// All of the source up to this LSN is in the branch.
    pub(crate) copied: Lsn,
    /// The branch's LSN from which on it has what comes next. `None`: it is not counted.
    pub(crate) from: Option<Lsn>,
}

impl Note {
    pub(crate) fn encode(&self) -> [u8; NOTE_LEN] {
        let mut out = [0; NOTE_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..24].copy_from_slice(&self.source);
        out[24..40].copy_from_slice(&self.branch.store);
        put_u64(&mut out, 40, self.branch.epoch);
        put_u64(&mut out, 48, self.copied.number());
        put_u64(&mut out, 56, self.from.map_or(0, Lsn::number));
        let sum = crc(&out[..SUM_AT]);
        put_u32(&mut out, SUM_AT, sum);
        out
    }

    /// What the branch that was found here has, as the table says; it counts no more. `None`: it is another branch's.
    pub(crate) fn settled(self, look: &Look) -> Option<Self> {
        if self.branch.store != look.incarnation.store {
            return None;
        }
        let is_certain = look.is_whole && self.branch.epoch == look.incarnation.epoch;
        let count = self.from.filter(|_| is_certain).map_or(0, |from| look.end.next().since(from));
        Some(Self { copied: self.copied.advance(count), from: None, ..self })
    }

    /// Up to which LSN of `source` this branch has everything.
    pub(crate) fn copied_of(&self, source: [u8; 16], branch: Incarnation) -> Lsn {
        if self.source == source && self.branch.store == branch.store { self.copied } else { Lsn::ZERO }
    }

    /// `None`: it is no note.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != NOTE_LEN || &bytes[..8] != MAGIC || crc(&bytes[..SUM_AT]) != u32_at(bytes, SUM_AT) {
            return None;
        }
        Some(Self {
            source: array_at(bytes, 8),
            branch: Incarnation { store: array_at(bytes, 24), epoch: u64_at(bytes, 40) },
            copied: Lsn::new(u64_at(bytes, 48)),
            from: Some(Lsn::new(u64_at(bytes, 56))).filter(|from| *from > Lsn::ZERO),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SOURCE: [u8; 16] = [7; 16];
    const BRANCH: Incarnation = Incarnation { store: [9; 16], epoch: 4 };

    fn note() -> Note {
        Note { source: SOURCE, branch: BRANCH, copied: Lsn::new(100), from: Some(Lsn::new(20)) }
    }

    fn look(end: u64) -> Look {
        Look { incarnation: BRANCH, end: Lsn::new(end), is_whole: true }
    }

    fn settled(note: Note, look: &Look) -> u64 {
        let settled = note.settled(look).unwrap();
        assert_eq!(settled, Note { copied: settled.copied, from: None, ..note });
        // Whoever finds it again counts no more.
        assert_eq!(settled.settled(&Look { end: Lsn::new(1000), ..*look }), Some(settled));
        settled.copied_of(SOURCE, BRANCH).number()
    }

    #[test]
    fn a_note_is_read_back_and_no_byte_of_it_may_change() {
        for from in [None, Some(Lsn::new(20))] {
            let note = Note { from, ..note() };
            let bytes = note.encode();
            assert_eq!(Note::decode(&bytes), Some(note));
            for at in 0..NOTE_LEN {
                let mut bytes = bytes;
                bytes[at] ^= 1;
                assert_eq!(Note::decode(&bytes), None, "byte {at}");
            }
            assert_eq!(Note::decode(&bytes[..NOTE_LEN - 1]), None);
        }
        assert_eq!(Note::decode(&[]), None);
    }

    #[test]
    fn the_branch_s_end_is_the_count() {
        // Nothing came after the note; one entry did; eleven did.
        assert_eq!([19, 20, 30].map(|end| settled(note(), &look(end))), [100, 101, 111]);
        // The end lies far in front: what was there before was taken out.
        assert_eq!(settled(note(), &look(3)), 100);
    }

    #[test]
    fn what_is_not_certain_is_not_counted() {
        let incarnation = |epoch| Incarnation { epoch, ..BRANCH };
        for other in [3, 5, 6] {
            assert_eq!(settled(note(), &Look { incarnation: incarnation(other), ..look(30) }), 100, "epoch {other}");
        }
        assert_eq!(settled(note(), &Look { is_whole: false, ..look(30) }), 100);
        assert_eq!(settled(Note { from: None, ..note() }, &look(30)), 100);
    }

    #[test]
    fn a_note_of_another_branch_or_another_source_says_nothing() {
        let other = Incarnation { store: [1; 16], ..BRANCH };
        assert_eq!(note().settled(&Look { incarnation: other, ..look(30) }), None);
        assert_eq!((note().copied_of(SOURCE, other), note().copied_of([8; 16], BRANCH)), (Lsn::ZERO, Lsn::ZERO));
    }
}
