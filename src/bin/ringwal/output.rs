//! Standard output: buffered, and silent when nobody reads it any more.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde_json::{Value, json};

use crate::args::Form;
use crate::failure::{Failure, Result};

/// Writes bytes to standard output.
pub(crate) fn write_all(bytes: &[u8]) -> Result<()> {
    let mut out = Out::new();
    out.put(bytes)?;
    out.flush()
}

/// Writes a value as JSON.
pub(crate) fn write_json(value: &Value) -> Result<()> {
    write_all(format!("{value:#}\n").as_bytes())
}

/// Buffered standard output, or something in its place.
pub(crate) struct Out<W: Write = StdoutLock<'static>> {
    to: BufWriter<W>,
    failed: fn(&io::Error) -> Failure,
}

impl Out {
    pub(crate) fn new() -> Self {
        Self::to(io::stdout().lock(), Failure::stdout)
    }
}

impl<W: Write> Out<W> {
    /// Writes to something else; `failed` tells what an error of it means.
    pub(crate) fn to(to: W, failed: fn(&io::Error) -> Failure) -> Self {
        Self { to: BufWriter::with_capacity(64 << 10, to), failed }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(|error| (self.failed)(&error))
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.to.flush().map_err(|error| (self.failed)(&error))
    }

    /// Writes an entry; `facts` are what is known of it besides its bytes.
    pub(crate) fn entry(&mut self, form: Form, bytes: &[u8], facts: Value) -> Result<()> {
        match form {
            Form::Text => {
                self.put(bytes)?;
                self.put(b"\n")
            }
            Form::Hex => {
                let facts = facts
                    .as_object()
                    .map(|facts| facts.iter().map(|(name, value)| format!(" {name} {value}")).collect::<String>());
                self.put(format!("#{}\n", facts.unwrap_or_default()).as_bytes())?;
                self.put(hex_dump(bytes).as_bytes())
            }
            Form::Json => {
                let mut object = facts;
                match std::str::from_utf8(bytes) {
                    Ok(text) => object["text"] = json!(text),
                    Err(_) => object["hex"] = json!(hex(bytes)),
                }
                self.put(object.to_string().as_bytes())?;
                self.put(b"\n")
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `00000000  68 65 …  |he|`, sixteen bytes a line.
fn hex_dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (index, row) in bytes.chunks(16).enumerate() {
        let mut digits = String::new();
        for (at, byte) in row.iter().enumerate() {
            digits.push_str(&format!("{}{byte:02x}", if at == 8 { "  " } else { " " }));
        }
        let printable: String = row
            .iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
            .collect();
        out.push_str(&format!("{:08x} {digits:<49}  |{printable}|\n", index * 16));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_hexdump_shows_them() {
        assert_eq!(hex_dump(b"hello, world: 16+\n").lines().next().unwrap().len(), 78);
        assert_eq!(hex_dump(b"hello\n"), "00000000  68 65 6c 6c 6f 0a                                 |hello.|\n");
        assert_eq!(hex(b"\0\xff"), "00ff");
    }
}
