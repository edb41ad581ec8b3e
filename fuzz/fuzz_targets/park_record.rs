//! Parked entries: any bytes are a record or none, and what was read comes back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwal::Lsn;
use ringwal::delivery::park::{ParkRecord, ParkedEntry};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = ParkRecord::decode(bytes) {
        assert_eq!(record.encoded_len(), bytes.len());
        assert_eq!(ParkRecord::decode(&record.encode()), Ok(record.clone()));
        let entry = ParkedEntry::new(Lsn::new(1), record);
        let _ = entry.decode::<String>();
    }
});
