//! Headers, controls and rings from bytes: what a dead process may leave, and what nobody of ours would.

use super::left::{Control, Left, Note, Walk, note_at};
use super::*;
use crate::lsn::Lsn;
use crate::ring::record::{State, Word};

fn header() -> Header {
    Header {
        store: StoreId([7; 16]),
        boot: BootId([9; 16]),
        epoch: 3,
        rings: 2,
        ring_len: 4096,
        schema: Schema::new("test", 1),
    }
}

#[test]
fn a_header_comes_back_as_it_was_and_every_flipped_bit_is_noticed() {
    let mut bytes = header().encode();
    assert_eq!(Header::decode(&bytes), Ok(header()));
    for bit in 0..HEADER_LEN * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_header_that_was_never_written_a_newer_and_an_impossible_one_are_told_apart() {
    assert_eq!(Header::decode(&[0; HEADER_LEN]), Err(NotAHeader::Unmade));
    assert_eq!(Header::decode(&[]), Err(NotAHeader::Unmade));
    assert!(matches!(Header::decode(&[1; 20]), Err(NotAHeader::Damaged(_))));
    let sealed = |at: usize, value: u64, len: usize| {
        let mut bytes = header().encode();
        bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        let sum = crc(&bytes[..HEADER_LEN - 4]);
        put_u32(&mut bytes, HEADER_LEN - 4, sum);
        Header::decode(&bytes)
    };
    assert_eq!(sealed(8, 2, 2), Err(NotAHeader::Newer(2)));
    // Under a good checksum too: lengths that would lead out of the file or out of memory.
    for (at, value, len) in
        [(56, 0, 4), (56, u64::MAX, 4), (64, 0, 8), (64, 4095, 8), (64, 1 << 40, 8), (72, 1, 8), (60, 9, 4)]
    {
        assert!(matches!(sealed(at, value, len), Err(NotAHeader::Damaged(_))), "{value} at {at}");
    }
}

#[test]
fn a_boot_id_is_read_from_the_kernels_text() {
    let id = parse_boot_id("01020304-0506-0708-090a-0b0c0d0e0f10\n").unwrap();
    assert_eq!(id.0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    for text in ["", "01020304", "zz020304-0506-0708-090a-0b0c0d0e0f10", "ä1020304-0506-0708-090a-0b0c0d0e0f1"] {
        assert_eq!(parse_boot_id(text), None);
    }
}

/// A ring of 256 bytes, and its control.
struct Bench {
    control: Vec<u8>,
    bytes: Vec<u8>,
    notes: u64,
}

impl Bench {
    fn new(released: u64, space: u64) -> Self {
        let mut control = vec![0; CONTROL_LEN];
        put_u64(&mut control, RELEASED, released);
        put_u64(&mut control, SPACE, space);
        Self { control, bytes: vec![0; 256], notes: 0 }
    }

    fn put(&mut self, position: u64, state: State, payload: &[u8]) -> &mut Self {
        let at = usize::try_from(position % 256).unwrap();
        put_u32(&mut self.bytes, at, Word::new(state, 8 + payload.len()).0);
        self.bytes[at + 8..at + 8 + payload.len()].copy_from_slice(payload);
        self
    }

    fn note(&mut self, start: u64, end: u64, first: u64) -> &mut Self {
        let at = note_at(self.notes);
        self.control[at..at + NOTE_LEN].copy_from_slice(&Note { start, end, first: Lsn::new(first) }.encode());
        self.notes += 1;
        put_u64(&mut self.control, NOTES_END, self.notes);
        self
    }

    /// Payloads and LSNs (0: none), incomplete ones as "-", damage as "!".
    fn walk(&self) -> Vec<(String, u64)> {
        let control = match Control::decode(&self.control, 256) {
            Ok(control) => control,
            Err(damage) => return vec![(format!("! {}", damage.why), 0)],
        };
        let told = |left| match left {
            Left::Record(record) => {
                let payload = &self.bytes[record.at + 8..record.at + record.total_len];
                (String::from_utf8(payload.to_vec()).unwrap(), record.lsn.map_or(0, Lsn::number))
            }
            Left::Incomplete { .. } => ("-".to_owned(), 0),
            Left::Damage(damage) => (format!("! {}", damage.why), 0),
        };
        Walk::new(&control, &self.bytes).map(told).collect()
    }
}

fn told(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
    rows.iter().map(|(text, lsn)| ((*text).to_owned(), *lsn)).collect()
}

#[test]
fn records_are_found_in_order_over_the_end_of_the_ring_with_the_lsns_of_their_notes() {
    let mut ring = Bench::new(480, 480);
    ring.put(480, State::Ready, b"a").put(496, State::Skip, &[0; 8]).put(512, State::Ready, b"b");
    ring.put(528, State::Ready, b"c").put(544, State::Ready, b"d");
    ring.note(480, 496, 7).note(496, 528, 9);
    assert_eq!(ring.walk(), told(&[("a", 7), ("b", 9), ("c", 0), ("d", 0)]));
}

#[test]
fn a_claim_that_was_never_published_is_skipped_and_what_lies_behind_it_is_found() {
    let mut ring = Bench::new(0, 0);
    ring.put(0, State::Ready, b"a").put(16, State::Claimed, b"half").put(32, State::Ready, b"b");
    // The producer of 48 died between taking the place and saying so; its place is zero.
    ring.put(80, State::Ready, b"c");
    assert_eq!(ring.walk(), told(&[("a", 0), ("-", 0), ("b", 0), ("-", 0), ("c", 0)]));
}

#[test]
fn what_was_let_go_and_is_only_half_zero_is_not_looked_at() {
    let mut ring = Bench::new(64, 0);
    // The front of the released record is zero, its payload is not yet.
    ring.bytes[24..32].fill(0xff);
    ring.put(64, State::Ready, b"a");
    assert_eq!(ring.walk(), told(&[("a", 0)]));
    // Its note may still be there.
    ring.note(0, 64, 1).note(64, 80, 5);
    assert_eq!(ring.walk(), told(&[("a", 5)]));
}

#[test]
fn a_ring_that_is_full_to_the_last_byte_ends_there() {
    let mut ring = Bench::new(0, 0);
    for number in 0..16 {
        ring.put(16 * number, State::Ready, b"x");
    }
    assert_eq!(ring.walk().len(), 16);
}

#[test]
fn lengths_that_leave_the_ring_are_damage_and_what_stood_before_is_kept() {
    for word in [0x8000_0000, 0x8000_0007, 0x8000_00f8, 0xbfff_ffff, 0x4000_0001, 5, 0xc000_0000] {
        let mut ring = Bench::new(0, 0);
        ring.put(0, State::Ready, b"a");
        put_u32(&mut ring.bytes, 16, word);
        assert_eq!(ring.walk(), told(&[("a", 0), ("! a record's length leaves the ring", 0)]), "{word:#x}");
    }
}

#[test]
fn positions_and_notes_that_contradict_each_other_are_damage() {
    let positions = [(1, 1), (8, 16), (1 << 62, 1 << 62), (264, 0), (u64::MAX - 7, 0)];
    for (released, space) in positions {
        assert_eq!(Bench::new(released, space).walk(), told(&[("! the ring's positions contradict each other", 0)]));
    }
    let notes = [(0, 0, 1), (16, 0, 1), (0, 264, 1), (1, 16, 1), (0, 16, 0), (0, 16, 1 << 62), (u64::MAX - 7, 8, 1)];
    for (start, end, first) in notes {
        let mut ring = Bench::new(0, 0);
        ring.note(start, end, first);
        let expected = "! a note of what was drained contradicts the ring's positions";
        assert_eq!(ring.walk(), told(&[(expected, 0)]), "{start}..{end} from {first}");
    }
    let mut ring = Bench::new(0, 0);
    ring.note(16, 32, 1).note(0, 16, 2);
    assert!(ring.walk()[0].0.starts_with('!'));
    put_u64(&mut ring.control, NOTES_END, 1025);
    assert!(ring.walk()[0].0.starts_with("! the numbers"));
    let mut ring = Bench::new(0, 0);
    ring.put(0, State::Ready, b"123456789").note(8, 24, 1);
    assert!(ring.walk()[0].0.starts_with("! a note of what was drained begins or ends within"));
}

/// Any bytes: no panic, no loop, nothing out of bounds, and never more than the ring can hold.
#[test]
fn arbitrary_bytes_are_walked_to_an_end() {
    let mut state = 1_u64;
    let mut chance = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for _ in 0..20_000 {
        let base = 8 * (chance() % 64);
        let mut ring = Bench::new(base + 8 * (chance() % 33), base);
        for _ in 0..chance() % 12 {
            let at = usize::try_from(8 * (chance() % 32)).unwrap();
            let word = if chance() % 4 == 0 { chance() } else { ((chance() % 4) << 30) | (8 + chance() % 64) };
            put_u32(&mut ring.bytes, at, u32::try_from(word & 0xffff_ffff).unwrap());
        }
        for _ in 0..chance() % 4 {
            ring.note(base + 8 * (chance() % 40), base + 8 * (chance() % 40), chance() % 9);
        }
        if let Ok(control) = Control::decode(&ring.control, 256) {
            let mut taken = 0;
            for left in Walk::new(&control, &ring.bytes) {
                if let Left::Record(record) = left {
                    assert!(record.at + record.stride <= 256 && record.total_len >= 8);
                    taken += record.stride;
                }
            }
            assert!(taken <= 256);
        }
    }
}
