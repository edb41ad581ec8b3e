//! Rings in a file in memory, which the process that pushed may leave behind.
//!
//! ```text
//!   0        4096                         4096 + rings × 32 KiB
//!   │ header │ control of ring 0 │ … of 1 │ … │ ring 0 │ ring 1 │ …
//!              released, space, notes           the same bytes as a ring of one's own
//! ```
//! Producers see no difference: they claim, fill and publish in mapped bytes, and tail and limit stay the process's
//! own. The drain only copies ([`Drainer::hold_until_released`](crate::ring::Drainer::hold_until_released)), and writes
//! down as *notes* which positions got which LSNs. Once the log has written these LSNs, or the sink is done with
//! them, the bytes are released: made zero, and free.
//!
//! # What a killed process leaves
//! | where | found | so |
//! |---|---|---|
//! | `released..`, with a note | a record whose LSN the log has, or the sink | done: nothing is made of it |
//! | `released..`, with a note | one whose LSN neither has | it is appended, under a new LSN |
//! | `released..`, without a note | a record | it was never drained: appended |
//! | | CLAIMED | its producer died in between, or was still writing: its push never returned. Skipped, counted |
//! | | zeros, then something | a claim that was not even marked. Stepped over, counted |
//! | `space..released` | anything | the drain died while it made them zero: not looked at |
//!
//! # Why it is right
//! The memory of a dead process holds all stores that its threads have carried out, in their order. So:
//! | is stored first | then | so that |
//! |---|---|---|
//! | a record's bytes | its READY | no torn record is taken |
//! | a note | the frame is handed to the disk | what the log may have is known |
//! | the log's write completes | `released` | what is let go is in the log |
//! | `released` | zeros | a half-made zero is not taken for a record |
//! | zeros | `space`, then the producers' head | below `space + length` there is only what was claimed, and zeros |
//!
//! The next opening first compares the notes with the log ([`left`]), marks in the ring what is done, forgets the
//! notes, and only then appends the rest, with notes of its own: so it may be killed at any point too.
//! Decision: `docs/adr/0011-rings-in-shared-memory.md`. Bytes: `docs/FORMAT.md`.

#[cfg(not(any(loom, shuttle)))]
pub(crate) mod book;
pub mod left;

use crate::schema::Schema;
use crate::wal::codec::{array_at, crc, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use crate::wal::segment::StoreId;

const MAGIC: &[u8; 8] = b"RWALRING";
/// This version of the format; a greater one is refused.
pub const MAJOR: u16 = 1;
/// Length of the header, whose place is [`CONTROLS_AT`] long.
pub const HEADER_LEN: usize = 256;
/// Where the controls begin.
pub const CONTROLS_AT: u64 = 4096;
/// Length of one ring's control.
pub const CONTROL_LEN: usize = 32 << 10;
/// Most notes of a ring.
pub const NOTES_MAX: u64 = 1024;
/// Length of a note.
pub const NOTE_LEN: usize = 24;
/// Offsets in a control.
pub(crate) const RELEASED: usize = 0;
pub(crate) const SPACE: usize = 8;
pub(crate) const NOTES_BEGIN: usize = 16;
pub(crate) const NOTES_END: usize = 24;
pub(crate) const NOTES_AT: usize = 64;
/// In a record's `meta`, in a ring file only: a recovery has found it in the log.
pub const DONE: u32 = 1 << 31;

const _: () = assert!(NOTES_AT as u64 + NOTES_MAX * NOTE_LEN as u64 <= CONTROL_LEN as u64);
const RING_LEN_MAX: u64 = 1 << 30;
const RINGS_MAX: u32 = 2048;

/// Which running of the machine: rings of another one are not taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootId(pub [u8; 16]);

/// What a ring file says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The store whose entries these are.
    pub store: StoreId,
    /// When they were pushed.
    pub boot: BootId,
    /// The opening of the store that made the file.
    pub epoch: u64,
    /// How many rings.
    pub rings: u32,
    /// Bytes of each: a power of two.
    pub ring_len: u64,
    /// What the entries are.
    pub schema: Schema,
}

/// Why bytes are no header of a ring file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAHeader {
    /// All zero: its making was interrupted before a ring could be used.
    Unmade,
    /// Of a later version.
    Newer(u16),
    /// Damaged, or of something else.
    Damaged(&'static str),
}

impl Header {
    /// Length of the file.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.ring_at(self.rings)
    }

    /// Where the control of a ring lies.
    #[must_use]
    pub const fn control_at(&self, ring: u32) -> u64 {
        CONTROLS_AT + ring as u64 * CONTROL_LEN as u64
    }

    /// Where the bytes of a ring lie.
    #[must_use]
    pub const fn ring_at(&self, ring: u32) -> u64 {
        self.control_at(self.rings) + ring as u64 * self.ring_len
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(MAGIC);
        put_u16(&mut out, 8, MAJOR);
        put_u32(&mut out, 12, 256);
        out[16..32].copy_from_slice(&self.store.0);
        out[32..48].copy_from_slice(&self.boot.0);
        put_u64(&mut out, 48, self.epoch);
        put_u32(&mut out, 56, self.rings);
        put_u32(&mut out, 60, 1024);
        put_u64(&mut out, 64, self.ring_len);
        put_u64(&mut out, 72, self.file_len());
        self.schema.encode(&mut out[80..160]);
        let sum = crc(&out[..HEADER_LEN - 4]);
        put_u32(&mut out, HEADER_LEN - 4, sum);
        out
    }

    /// The header in these bytes.
    ///
    /// # Errors
    /// See [`NotAHeader`].
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAHeader> {
        use NotAHeader::{Damaged, Newer, Unmade};
        let Some(bytes) = bytes.get(..HEADER_LEN) else {
            return if bytes.iter().all(|byte| *byte == 0) { Err(Unmade) } else { Err(Damaged("it is too short")) };
        };
        match () {
            () if bytes.iter().all(|byte| *byte == 0) => return Err(Unmade),
            () if bytes[..8] != *MAGIC => return Err(Damaged("it does not begin as a ring file does")),
            () if u32_at(bytes, HEADER_LEN - 4) != crc(&bytes[..HEADER_LEN - 4]) => {
                return Err(Damaged("the checksum of its header does not hold"));
            }
            () if u16_at(bytes, 8) > MAJOR => return Err(Newer(u16_at(bytes, 8))),
            () => {}
        }
        let (rings, ring_len) = (u32_at(bytes, 56), u64_at(bytes, 64));
        let schema = Schema::decode(&bytes[80..160]).ok_or(Damaged("its schema has no name"))?;
        let fits = (1..=RINGS_MAX).contains(&rings)
            && ring_len.is_power_of_two()
            && (64..=RING_LEN_MAX).contains(&ring_len)
            && u32_at(bytes, 60) == 1024;
        if !fits {
            return Err(Damaged("its header gives lengths that no ring file has"));
        }
        let header = Self {
            store: StoreId(array_at(bytes, 16)),
            boot: BootId(array_at(bytes, 32)),
            epoch: u64_at(bytes, 48),
            rings,
            ring_len,
            schema,
        };
        if u64_at(bytes, 72) != header.file_len() {
            return Err(Damaged("its header gives lengths that contradict each other"));
        }
        Ok(header)
    }
}

/// A boot id in the kernel's text.
#[must_use]
pub fn parse_boot_id(text: &str) -> Option<BootId> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    (digits.len() == 32 && digits.is_ascii()).then_some(())?;
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(BootId(id))
}

/// The name of a store's ring file.
#[must_use]
pub fn file_name(store: StoreId) -> String {
    let hex: String = store.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("ringwal-{hex}.rings")
}

#[cfg(all(test, not(loom)))]
mod tests;
