//! The start of a slot: any bytes are told apart, and a header that was read comes back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwal::wal::segment::{HEADER_BLOCKS, SEGMENT_HEADER_LEN, SlotHeader, read_slot_header};
use ringwal_fuzz::{make_good, shaped};

const MAGICS: [&[u8; 8]; 3] = [b"RWALSEG\x01", b"RWALFREE", b"RWALVOID"];

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, bytes) = input;
    let block_len = 512_u32 << (choice % 8);
    let _ = read_slot_header(bytes, block_len);

    // The same, with checksums that hold, as the first copy and as the second.
    let mut copy = shaped(bytes, SEGMENT_HEADER_LEN, MAGICS[usize::from(choice / 8) % 3]);
    make_good(&mut copy, SEGMENT_HEADER_LEN - 4);
    for at in 0..HEADER_BLOCKS as usize {
        let mut slot = vec![0; (HEADER_BLOCKS * block_len) as usize];
        slot[at * block_len as usize..][..SEGMENT_HEADER_LEN].copy_from_slice(&copy);
        if let SlotHeader::Segment(header) = read_slot_header(&slot, block_len) {
            let mut again = vec![0; (HEADER_BLOCKS * header.block_len) as usize];
            header.encode(&mut again);
            assert_eq!(read_slot_header(&again, header.block_len), SlotHeader::Segment(header));
        }
    }
});
