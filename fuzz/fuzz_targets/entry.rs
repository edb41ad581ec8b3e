//! Entries: any bytes decode or are refused; what decodes is encoded again to something that decodes to
//! the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwal::Entry;

#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
enum Shape {
    Nothing,
    Point { x: i32, y: i64 },
    Path(Vec<(u16, String)>),
    Named(String, Option<Box<Self>>),
}
ringwal::entry!(Shape);

#[derive(Clone, Copy, PartialEq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Tick {
    at: u64,
    price: u32,
    volume: u32,
}
ringwal::entry_pod!(Tick);

fn round<T: Entry + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = T::decode(bytes) {
        let mut again = Vec::new();
        value.encode(&mut again).expect("what was decoded can be encoded");
        assert_eq!(T::decode(&again).expect("what was encoded can be decoded"), value);
        if let Some(len) = value.encoded_len() {
            assert_eq!(len, again.len());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    round::<Shape>(bytes);
    round::<Tick>(bytes);
    round::<String>(bytes);
    round::<Vec<u8>>(bytes);
});
