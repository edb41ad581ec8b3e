//! Ring files: any bytes are walked to an end, within their bounds, and a header says what it said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwal::ring::shared::left::{Control, Left, Note, Walk};
use ringwal::ring::shared::{CONTROL_LEN, HEADER_LEN, Header, NOTE_LEN};
use ringwal_fuzz::{make_good, shaped};

/// Where notes begin in a control.
const NOTES_AT: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let _ = Header::decode(bytes);
    let mut header = shaped(bytes, HEADER_LEN, b"RWALRING");
    make_good(&mut header, HEADER_LEN - 4);
    if let Ok(decoded) = Header::decode(&header) {
        assert_eq!(Header::decode(&decoded.encode()), Ok(decoded));
        assert_eq!(decoded.file_len(), decoded.ring_at(0) + u64::from(decoded.rings) * decoded.ring_len);
    }

    // Positions, up to four notes, and the ring: 64 bytes to 4 KiB.
    let split = |len: usize| bytes.split_at(len.min(bytes.len()));
    let (head, _) = split(32);
    let (_, rest) = split(32);
    let (notes, ring) = rest.split_at((4 * NOTE_LEN).min(rest.len()));
    let mut control = vec![0; CONTROL_LEN];
    control[..head.len()].copy_from_slice(head);
    control[NOTES_AT..NOTES_AT + notes.len()].copy_from_slice(notes);
    let len = ring.len().next_power_of_two().clamp(64, 4096);
    let mut ring = ring[..ring.len().min(len)].to_vec();
    ring.resize(len, 0);
    let Ok(control) = Control::decode(&control, len as u64) else { return };
    assert!(control.space <= control.released && control.released <= control.space + len as u64);
    let (mut position, mut taken) = (control.released, 0);
    let mut is_over = false;
    for left in Walk::new(&control, &ring) {
        assert!(!is_over, "nothing follows damage");
        match left {
            Left::Record(record) => {
                assert!(record.position >= position && record.total_len >= 8 && record.total_len <= record.stride);
                assert!(record.at + record.stride <= len && record.at as u64 == record.position % len as u64);
                position = record.position + record.stride as u64;
                taken += record.stride;
                if let Some(lsn) = record.lsn {
                    let holds = |note: &&Note| note.start <= record.position && position <= note.end;
                    let note =
                        control.notes.iter().find(holds).expect("an LSN comes from a note that holds the record");
                    assert!(lsn >= note.first && lsn.since(note.first) < record.position - note.start + 1);
                }
            }
            Left::Incomplete { position: at } => assert!(at >= position),
            Left::Damage(_) => is_over = true,
        }
    }
    assert!(taken <= len && position <= control.space + len as u64);
});
