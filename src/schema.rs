//! What the entries of a segment are: a name and a version, in every segment's header.

use std::fmt;

use crate::wal::codec::{put_u32, u32_at};

/// Longest name of a schema in bytes.
pub(crate) const SCHEMA_NAME_LEN_MAX: usize = 72;

/// Names the type of a queue's entries and the version of its encoding. A directory that holds
/// entries of another schema is refused at open.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schema {
    name: [u8; SCHEMA_NAME_LEN_MAX],
    version: u32,
}

impl Schema {
    /// The schema with this name and version.
    ///
    /// # Panics
    /// When the name is empty, longer than 72 bytes or contains a zero byte; in a constant this is
    /// an error of compilation.
    #[must_use]
    pub const fn new(name: &str, version: u32) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= SCHEMA_NAME_LEN_MAX, "a schema's name has 1 to 72 bytes");
        let mut padded = [0; SCHEMA_NAME_LEN_MAX];
        let mut at = 0;
        while at < bytes.len() {
            assert!(bytes[at] != 0, "a schema's name has no zero byte");
            padded[at] = bytes[at];
            at += 1;
        }
        Self { name: padded, version }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        let len = self.name.iter().position(|b| *b == 0).unwrap_or(SCHEMA_NAME_LEN_MAX);
        std::str::from_utf8(&self.name[..len]).unwrap_or("?")
    }

    /// The version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// 80 bytes: version, four zeros, name.
    pub(crate) fn encode(&self, out: &mut [u8]) {
        assert_eq!(out.len(), SCHEMA_NAME_LEN_MAX + 8);
        put_u32(out, 0, self.version);
        out[4..8].fill(0);
        out[8..].copy_from_slice(&self.name);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let name: [u8; SCHEMA_NAME_LEN_MAX] = bytes.get(8..8 + SCHEMA_NAME_LEN_MAX)?.try_into().ok()?;
        let len = name.iter().position(|b| *b == 0).unwrap_or(SCHEMA_NAME_LEN_MAX);
        let holds = len > 0 && std::str::from_utf8(&name[..len]).is_ok() && name[len..].iter().all(|b| *b == 0);
        holds.then(|| Self { name, version: u32_at(bytes, 0) })
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name(), self.version)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({self})")
    }
}
