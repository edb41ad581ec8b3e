//! Frames: any bytes are a header or none, and a body's records never reach beyond it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwal::ring::record::{RECORD_ALIGN, RECORD_HEADER_LEN, Records, stride_of};
use ringwal::wal::frame::{FRAME_HEADER_LEN, FrameHeader};
use ringwal_fuzz::{make_good, shaped};

fuzz_target!(|bytes: &[u8]| {
    let _ = FrameHeader::decode(bytes);
    let mut header = shaped(bytes, FRAME_HEADER_LEN, b"RWFR");
    header[5] = (FRAME_HEADER_LEN / 8) as u8;
    make_good(&mut header, FRAME_HEADER_LEN - 4);
    if let Ok(decoded) = FrameHeader::decode(&header) {
        let mut again = [0; FRAME_HEADER_LEN];
        decoded.encode(&mut again);
        assert_eq!(FrameHeader::decode(&again), Ok(decoded));
        assert!(decoded.stored_len(512) >= FRAME_HEADER_LEN as u64 + u64::from(decoded.body_len));
    }

    // Records follow each other without gap, up to the body's end or to the first that is none.
    let body = bytes.get(FRAME_HEADER_LEN..).unwrap_or(bytes);
    let mut at = 0;
    for record in Records::new(body) {
        match record {
            Ok(record) => {
                assert_eq!(record.offset, at + RECORD_HEADER_LEN);
                assert_eq!(record.offset % RECORD_ALIGN, 0);
                assert_eq!(record.payload.as_ptr(), body[record.offset..].as_ptr());
                at += stride_of(record.payload.len());
            }
            Err(bad) => {
                assert_eq!(bad.at, at);
                at = body.len();
            }
        }
    }
    assert_eq!(at, body.len());
});
