//! Little-endian fields at fixed offsets, and the checksum. Used by every structure on disk.

/// CRC32C of `bytes`.
#[must_use]
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

pub(crate) fn put_u16(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A length that the format bounds far below 32 bits.
///
/// # Panics
/// When it is longer.
pub(crate) fn len_u32(len: usize) -> u32 {
    assert!(len <= u32::MAX as usize, "a length of {len} bytes is in no format");
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    {
        len as u32
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// Longest structure that gives its own length: the least room that a copy of META has.
const STRUCTURE_LEN_MAX: usize = 4096;

/// A structure that gives its length at 12 and ends with its checksum, if that holds. A later version may
/// have made it longer than the `least` that is known here: then it must still say that it is later.
pub(crate) fn whole(bytes: &[u8], least: usize) -> Option<&[u8]> {
    let len = u32_at(bytes.get(..least)?, 12) as usize;
    let bytes = bytes.get(..len).filter(|_| (least..=STRUCTURE_LEN_MAX).contains(&len))?;
    (crc(&bytes[..len - 4]) == u32_at(bytes, len - 4)).then_some(bytes)
}

/// CRC32C of the bytes before, whose checksum is `sum`, and of `bytes`.
#[must_use]
pub(crate) fn crc_append(sum: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(sum, bytes)
}
