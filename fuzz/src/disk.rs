//! A disk of a few files in memory, one op at a time, that carries out what recovery asks for.

use std::collections::BTreeMap;

use ringwal::wal::op::{Completion, DiskError, FileId, Op, Output, Token};

/// Files by name.
#[derive(Clone, Debug, Default)]
pub struct Files(pub BTreeMap<FileId, Vec<u8>>);

impl Files {
    /// Carries out an op.
    ///
    /// # Panics
    /// When the op names a place that no sound program would: that is a finding.
    pub fn run(&mut self, token: Token, op: Op) -> Completion {
        let result = match op {
            Op::List { log } => {
                let of_log = self.0.iter().filter(|(file, _)| file.log() == log);
                Ok(Output::Files(of_log.map(|(file, bytes)| (*file, bytes.len() as u64)).collect()))
            }
            Op::Prepare { file, len, mark, .. } => {
                let mut bytes = vec![0; usize::try_from(len).expect("a file of this test fits into memory")];
                bytes[..mark.len()].copy_from_slice(&mark);
                self.0.insert(file, bytes);
                Ok(Output::Done)
            }
            Op::Write { file, offset, block, .. } => {
                let bytes = self.0.get_mut(&file).expect("only files that are there are written");
                let start = usize::try_from(offset).expect("a file of this test fits into memory");
                // A slot file that was cut short is voided all the same.
                if bytes.len() < start + block.len() {
                    bytes.resize(start + block.len(), 0);
                }
                bytes[start..start + block.len()].copy_from_slice(&block);
                Ok(Output::Done)
            }
            Op::Sync { file } | Op::Quarantine { file } if self.0.contains_key(&file) => Ok(Output::Done),
            Op::Sync { file } | Op::Quarantine { file } => Err(missing(file)),
            Op::Read { file, offset, mut block } => match self.0.get(&file) {
                Some(bytes) => {
                    let start = usize::try_from(offset).map_or(bytes.len(), |start| start.min(bytes.len()));
                    let count = block.len().min(bytes.len() - start);
                    block[..count].copy_from_slice(&bytes[start..start + count]);
                    block[count..].fill(0);
                    Ok(Output::Bytes(block))
                }
                None => Err(missing(file)),
            },
            Op::Remove { file } => {
                self.0.remove(&file);
                Ok(Output::Done)
            }
        };
        Completion { token, result }
    }
}

fn missing(file: FileId) -> DiskError {
    DiskError { what: "open", file: Some(file), offset: None, errno: 2, detail: "" }
}
