//! The entry of the benchmarks, and of the programs that count.

use ringwal::{DecodeError, Entry, Schema};

/// An entry of a fixed length that costs nothing to encode.
#[derive(Clone, Copy)]
pub(crate) struct Fixed<const LEN: usize>(pub(crate) [u8; LEN]);

impl<const LEN: usize> Entry for Fixed<LEN> {
    const SCHEMA: Schema = Schema::new("bench.fixed", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(LEN)
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bytes.try_into().map(Self).map_err(DecodeError::new)
    }
}
