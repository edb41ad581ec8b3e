//! META and the cursor: any bytes are read or refused, and what was read comes back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwal::wal::cursor::{CURSOR_LEN, Cursor};
use ringwal::wal::meta::{META_LEN, Meta, meta_offset};
use ringwal_fuzz::{make_good, shaped};

/// Length of a META that has the table.
const WITH_TABLE: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let _ = Meta::read(bytes);
    let half = bytes.len() / 2;
    let _ = Cursor::read(&bytes[..half], &bytes[half..]);

    // The same, with checksums that hold; with the table of what is untold, too.
    for len in [META_LEN, WITH_TABLE] {
        let mut copy = shaped(bytes, len, b"RWALMETA");
        if len == WITH_TABLE {
            copy[12..16].copy_from_slice(&(len as u32).to_le_bytes());
        }
        make_good(&mut copy, len - 4);
        if let Ok(meta) = Meta::read(&copy) {
            let start = usize::try_from(meta_offset(meta.generation, meta.block_len)).unwrap();
            let mut file = vec![0; start + WITH_TABLE];
            meta.encode(&mut file[start..]);
            assert_eq!(Meta::read(&file), Ok(meta));
        }
    }
    let mut copy = shaped(bytes, CURSOR_LEN, b"RWALCURS");
    make_good(&mut copy, CURSOR_LEN - 4);
    for places in [(&copy[..], &[][..]), (&[][..], &copy[..])] {
        if let Some(cursor) = Cursor::read(places.0, places.1) {
            let mut again = vec![0; CURSOR_LEN];
            cursor.encode(&mut again);
            let read = if cursor.generation & 1 == 0 { Cursor::read(&again, &[]) } else { Cursor::read(&[], &again) };
            assert_eq!(read, Some(cursor));
        }
    }
});
