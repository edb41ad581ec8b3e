//! What the fuzz targets share: checksums made good after bytes were made up, so that the checks behind
//! the checksum are reached; a disk of a few files; a made-up log.

#![forbid(unsafe_code)]

pub mod directory;
pub mod disk;

/// Puts the CRC32C of all bytes before `at` at `at`, as the structures on disk have it.
pub fn make_good(bytes: &mut [u8], at: usize) {
    if let Some((covered, rest)) = bytes.split_at_mut_checked(at)
        && let Some(place) = rest.get_mut(..4)
    {
        place.copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
    }
}

/// `bytes`, cut or filled up with zeros to this length, with `magic` at its start.
#[must_use]
pub fn shaped(bytes: &[u8], len: usize, magic: &[u8]) -> Vec<u8> {
    let mut shaped = bytes[..bytes.len().min(len)].to_vec();
    shaped.resize(len, 0);
    shaped[..magic.len()].copy_from_slice(magic);
    shaped
}
