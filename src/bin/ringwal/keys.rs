//! `--key-file`: the keys to what is encrypted. Set once, before anything is opened.
//!
//! ```text
//!   # one key in a line: its number, a colon, 64 hexadecimal digits; the last one is written with
//!   1:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
//! ```

use std::path::Path;
use std::sync::{Arc, OnceLock};

use ringwal::wal::coding::KeyProblem;
use ringwal::{Aes256Gcm, Cipher, KeyId};

use crate::failure::{Failure, Result};

/// Bytes of a key.
const KEY_LEN: usize = 32;

static KEYS: OnceLock<Aes256Gcm> = OnceLock::new();

/// Takes the keys from a file.
pub(crate) fn load(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("cannot read the key file {}: {error}; see who may", path.display()))
    })?;
    let keys = parse(&text).map_err(|why| Failure::usage(format!("the key file {}: {why}", path.display())))?;
    let _ = KEYS.set(keys);
    Ok(())
}

/// The keys that were given.
pub(crate) fn cipher() -> Option<Arc<dyn Cipher>> {
    KEYS.get().map(|keys| Arc::new(keys.clone()) as Arc<dyn Cipher>)
}

/// The keys that were given, to write with.
pub(crate) fn aes() -> Option<Aes256Gcm> {
    KEYS.get().cloned()
}

/// What cannot be shown, and what to do about it.
pub(crate) fn locked(what: &str, key: KeyId, problem: KeyProblem) -> String {
    format!("{what} encrypted with key {key}, and {problem}; give the right one with --key-file")
}

/// Never says what a line holds: it may be a key.
fn parse(text: &str) -> std::result::Result<Aes256Gcm, String> {
    let mut keys: Option<Aes256Gcm> = None;
    for (line, at) in text.lines().map(str::trim).zip(1_usize..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = line.split_once(':').and_then(|(id, key)| {
            let id = id.trim().parse().ok().and_then(KeyId::from_number)?;
            Some((id, unhex(key.trim())?))
        });
        let Some((id, key)) = parsed else {
            return Err(format!("line {at} is not NUMBER:KEY, with a number from 1 on and 64 hexadecimal digits"));
        };
        let taken = match &keys {
            None => {
                keys = Some(Aes256Gcm::new(id, key));
                Ok(())
            }
            Some(keys) => keys.rotate(id, key),
        };
        taken.map_err(|_| format!("line {at} has the number of another key"))?;
    }
    keys.ok_or_else(|| "it holds no key; give one in a line, as NUMBER:KEY".to_owned())
}

fn unhex(text: &str) -> Option<[u8; KEY_LEN]> {
    if text.len() != 2 * KEY_LEN || !text.is_ascii() {
        return None;
    }
    let mut key = [0; KEY_LEN];
    for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_key_is_written_with_and_no_message_shows_one() {
        let (one, two) = ("ab".repeat(KEY_LEN), "cd".repeat(KEY_LEN));
        let keys = parse(&format!("# keys\n1:{one}\n\n 2 : {two} \n")).unwrap();
        assert_eq!(keys.writing_key(), KeyId::new(2));
        for bad in
            [String::new(), format!("0:{one}"), format!("1:{one}0"), format!("1:{one}\n1:{two}"), "1:+1".repeat(16)]
        {
            let why = parse(&bad).unwrap_err();
            assert!(!why.contains("abab") && !why.contains("cdcd"), "{why}");
        }
    }
}
