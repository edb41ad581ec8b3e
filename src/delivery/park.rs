//! Parked entries: what the park log's records hold.
//!
//! ```text
//!  0        8       88         92      96        104       112       120
//!  │ lsn    │ schema │ attempts │ error │ time    │ first   │ last    │ error text │ payload
//!  │ u64    │ 80 B   │ u32      │ len   │ u64     │ u64     │ u64     │ ≤ 1 KiB    │ the rest
//! ```
//! Little-endian. The frame around it has the checksum; decoding still takes no field on trust.

use std::error::Error;
use std::fmt;
use std::time::SystemTime;

use crate::delivery::batch::system_time;
use crate::entry::{DecodeError, Entry};
use crate::lsn::Lsn;
use crate::schema::{SCHEMA_NAME_LEN_MAX, Schema};
use crate::sink::{REASON_LEN_MAX, Reason};
use crate::time::UnixNanos;
use crate::wal::codec::{put_u32, put_u64, u32_at, u64_at};

/// Schema of the park log.
pub const PARK_SCHEMA: Schema = Schema::new("ringwal.parked", 1);
const SCHEMA_LEN: usize = SCHEMA_NAME_LEN_MAX + 8;
const HEADER_LEN: usize = 120;
/// By how much a record of the park log is longer than the entry, at most.
pub const PARK_OVERHEAD_MAX: usize = HEADER_LEN + REASON_LEN_MAX;
const _: () = assert!(HEADER_LEN == 8 + SCHEMA_LEN + 2 * 4 + 3 * 8);

/// An entry on its way into the park log, or out of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParkRecord {
    /// Its LSN in the main log.
    pub lsn: Lsn,
    /// What it was encoded as.
    pub schema: Schema,
    /// Failed attempts that it has behind it.
    pub attempts: u32,
    /// When it was taken in.
    pub time: UnixNanos,
    /// When it was first offered to the sink, as far as this run of the process knows.
    pub first_attempt: UnixNanos,
    /// When it was last offered to the sink.
    pub last_attempt: UnixNanos,
    /// Why it was parked; at most 1 KiB is kept.
    pub error: String,
    /// Its encoding.
    pub payload: Vec<u8>,
}

/// Bytes that are no record of a parked entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadParkRecord(&'static str);

impl fmt::Display for BadParkRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no record of a parked entry: {}", self.0)
    }
}

impl Error for BadParkRecord {}

impl ParkRecord {
    /// Length of the encoding in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.error_kept().len() + self.payload.len()
    }

    /// Writes the encoding.
    ///
    /// # Panics
    /// When `out` is not [`encoded_len`](Self::encoded_len) bytes long.
    pub fn encode_into(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.encoded_len(), "a parked entry gets as many bytes as it needs");
        let error = self.error_kept();
        put_u64(out, 0, self.lsn.number());
        self.schema.encode(&mut out[8..8 + SCHEMA_LEN]);
        put_u32(out, 88, self.attempts);
        put_u32(out, 92, u32::try_from(error.len()).unwrap_or(0));
        put_u64(out, 96, self.time.0);
        put_u64(out, 104, self.first_attempt.0);
        put_u64(out, 112, self.last_attempt.0);
        let (text, payload) = out[HEADER_LEN..].split_at_mut(error.len());
        text.copy_from_slice(error.as_bytes());
        payload.copy_from_slice(&self.payload);
    }

    /// The encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; self.encoded_len()];
        self.encode_into(&mut out);
        out
    }

    /// The record that was encoded as `bytes`.
    ///
    /// # Errors
    /// When they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadParkRecord> {
        let header = bytes.get(..HEADER_LEN).ok_or(BadParkRecord("shorter than its header"))?;
        let error_len = u32_at(header, 92) as usize;
        let text = (error_len <= REASON_LEN_MAX).then(|| bytes.get(HEADER_LEN..HEADER_LEN + error_len)).flatten();
        let text = text.ok_or(BadParkRecord("length of the error text"))?;
        Ok(Self {
            lsn: Lsn::new(u64_at(header, 0)),
            schema: Schema::decode(&header[8..8 + SCHEMA_LEN]).ok_or(BadParkRecord("schema"))?,
            attempts: u32_at(header, 88),
            time: UnixNanos(u64_at(header, 96)),
            first_attempt: UnixNanos(u64_at(header, 104)),
            last_attempt: UnixNanos(u64_at(header, 112)),
            error: std::str::from_utf8(text).map_err(|_| BadParkRecord("error text"))?.to_owned(),
            payload: bytes[HEADER_LEN + error_len..].to_vec(),
        })
    }

    fn error_kept(&self) -> &str {
        Reason::cut(&self.error)
    }
}

/// An entry that the sink could not take: a dead letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParkedEntry {
    /// Its number in the park log, by which it is redelivered or discarded.
    pub id: Lsn,
    /// The LSN it had when it was delivered.
    pub lsn: Lsn,
    /// What it was encoded as.
    pub schema: Schema,
    /// How often it was offered to the sink in vain.
    pub attempts: u32,
    /// When it was taken in.
    pub time: SystemTime,
    /// When it was first offered to the sink, since the process was last started.
    pub first_attempt: SystemTime,
    /// When it was last offered to the sink.
    pub last_attempt: SystemTime,
    /// Why it was parked.
    pub error: String,
    /// Its encoding.
    pub bytes: Vec<u8>,
}

impl ParkedEntry {
    /// The parked entry with this number in the park log.
    #[must_use]
    pub fn new(id: Lsn, record: ParkRecord) -> Self {
        Self {
            id,
            lsn: record.lsn,
            schema: record.schema,
            attempts: record.attempts,
            time: system_time(record.time),
            first_attempt: system_time(record.first_attempt),
            last_attempt: system_time(record.last_attempt),
            error: record.error,
            bytes: record.payload,
        }
    }

    /// The value that was pushed.
    ///
    /// # Errors
    /// When the bytes are no `T`, which may be why they lie here.
    pub fn decode<T: Entry>(&self) -> Result<T, DecodeError> {
        T::decode_from(&self.schema, &self.bytes)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> ParkRecord {
        ParkRecord {
            lsn: Lsn::new(7),
            schema: Schema::new("string", 1),
            attempts: 3,
            time: UnixNanos(1),
            first_attempt: UnixNanos(2_000_000_000),
            last_attempt: UnixNanos(3),
            error: "no route".to_owned(),
            payload: b"hello".to_vec(),
        }
    }

    #[test]
    fn a_parked_entry_gives_its_value_back() {
        let parked = ParkedEntry::new(Lsn::new(1), ParkRecord::decode(&sample().encode()).unwrap());
        assert_eq!(parked.decode::<String>().unwrap(), "hello");
        assert_eq!((parked.lsn, parked.attempts, &*parked.error), (Lsn::new(7), 3, "no route"));
        assert_eq!(parked.first_attempt, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(2));
        assert!(parked.decode::<Vec<u8>>().is_err(), "another schema");
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let record = ParkRecord { error: "ä".repeat(600), ..sample() };
        let bytes = record.encode();
        assert!(bytes.len() <= PARK_OVERHEAD_MAX + record.payload.len());
        assert_eq!(ParkRecord::decode(&bytes).unwrap().error, "ä".repeat(512));
        let record = ParkRecord { error: format!("x{}", "ä".repeat(600)), ..sample() };
        assert_eq!(ParkRecord::decode(&record.encode()).unwrap().error.len(), 1023);
    }

    #[test]
    fn every_spoiled_field_is_noticed() {
        let good = sample().encode();
        assert_eq!(ParkRecord::decode(&good[..119]), Err(BadParkRecord("shorter than its header")));
        for (at, byte, field) in [
            (94, 1, "length of the error text"),
            (92, 200, "length of the error text"),
            (16, 0, "schema"),
            (120, 0xff, "error text"),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(ParkRecord::decode(&bad), Err(BadParkRecord(field)), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            numbers in any::<(u64, u32, u64, u64, u64)>(),
            error in ".{0,200}",
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let (lsn, attempts, time, first, last) = numbers;
            let record = ParkRecord {
                lsn: Lsn::new(lsn),
                schema: Schema::new("orders", 9),
                attempts,
                time: UnixNanos(time),
                first_attempt: UnixNanos(first),
                last_attempt: UnixNanos(last),
                error,
                payload,
            };
            prop_assert_eq!(ParkRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            spoils in prop::collection::vec((0_usize..140, any::<u8>()), 0..4),
        ) {
            let _ = ParkRecord::decode(&bytes);
            let mut spoiled = sample().encode();
            for (at, byte) in spoils {
                if let Some(place) = spoiled.get_mut(at) {
                    *place = byte;
                }
            }
            if let Ok(record) = ParkRecord::decode(&spoiled) {
                prop_assert_eq!(ParkRecord::decode(&record.encode()), Ok(record));
            }
        }
    }
}
