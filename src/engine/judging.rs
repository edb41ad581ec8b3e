//! Whether a directory may be opened as it is asked for, and what is said if not. Nothing has been changed so far.

use crate::config::OnCorruption;
use crate::delivery::park::PARK_SCHEMA;
use crate::engine::opening::Opening;
use crate::error::{ConfigError, OpenError};
use crate::recovery::{Incarnation, Look};
use crate::wal::coding::{Decoder, KeyProblem};
use crate::wal::op::{FileId, LogId};
use crate::wal::recovery::{Corruption, ScanError, Scanned, StoreConfig};
use crate::wal::segment::FORMAT_MAJOR;

impl Opening {
    /// Whether the directory may be opened as it is asked for. Nothing has been changed so far.
    pub(super) fn judge(&self, log: LogId, scanned: &Scanned) -> Result<(), OpenError> {
        let is_park = log == LogId::Park;
        let unknown = scanned.live.iter().find(|segment| {
            let is_known = if is_park { segment.schema == PARK_SCHEMA } else { (self.accepts)(&segment.schema) };
            segment.end > scanned.cursor.acked && !is_known
        });
        if let Some(segment) = unknown {
            return Err(OpenError::Schema { found: Box::new(segment.schema), wanted: Box::new(self.schema) });
        }
        self.check_keys(log, scanned)?;
        match scanned.corruption.first() {
            Some(corruption) if self.config.on_corruption == OnCorruption::Stop => Err(self.corrupt(log, corruption)),
            _ => Ok(()),
        }
    }

    /// Tells who wants to know what was found, as long as it is as it was. Of a new store there is nothing to tell.
    pub(super) fn tell_look(&self, scanned: &Scanned) -> Result<(), OpenError> {
        let (Some(meta), Some(on_look)) = (&scanned.meta, &self.config.on_look) else {
            return Ok(());
        };
        let incarnation = Incarnation { store: meta.store.0, epoch: meta.epoch };
        (on_look.0)(&Look { incarnation, end: scanned.end, is_whole: scanned.corruption.is_empty() })
    }

    /// What was fixed when the directory was created must fit what is asked for now. The longest frame is
    /// not: it grows with `entry_len_max`, as long as a segment holds it.
    pub(super) fn check_store(&self, scanned: &Scanned, wanted: StoreConfig) -> Result<(), OpenError> {
        let Some(meta) = &scanned.meta else {
            return Ok(());
        };
        let longest = u64::from(wanted.frame_len_max) + 4 * u64::from(meta.block_len);
        if longest > meta.segment_len {
            let range = format!("so long that it fits the directory's segments of {} bytes", meta.segment_len);
            return Err(ConfigError::new("entry_len_max", self.config.entry_len_max, range).into());
        }
        let (field, bytes_max) = match wanted.log {
            LogId::Main => ("log_bytes_max", self.config.log_bytes_max),
            LogId::Park => ("park_bytes_max", self.config.park_bytes_max),
        };
        if bytes_max < 2 * meta.segment_len {
            let range = format!("at least two of the directory's segments of {} bytes", meta.segment_len);
            return Err(ConfigError::new(field, bytes_max, range).into());
        }
        Ok(())
    }

    /// Whether what is to be delivered can be decrypted. Recovery goes by checksums, which stand over what is on disk,
    /// so that a wrong key is never taken for damage.
    fn check_keys(&self, log: LogId, scanned: &Scanned) -> Result<(), OpenError> {
        let Some(meta) = &scanned.meta else { return Ok(()) };
        let mut decoder = Decoder::new(log, meta.store, self.config.coding.cipher.clone());
        for segment in scanned.live.iter().filter(|segment| segment.end > scanned.cursor.acked) {
            let Some(key) = &segment.key else { continue };
            if let Err(why) = decoder.check(segment.uid, key) {
                let (file, key) = (self.path(FileId::Slot(log, segment.slot)), key.id);
                return Err(match why {
                    KeyProblem::Wrong => OpenError::WrongKey { file, key },
                    why => OpenError::KeyMissing { file, key, why },
                });
            }
        }
        Ok(())
    }

    pub(super) fn corrupt(&self, log: LogId, corruption: &Corruption) -> OpenError {
        OpenError::Corrupt {
            file: self.path(FileId::Slot(log, corruption.slot)),
            offset: corruption.offset,
            first: corruption.first,
            last: corruption.last,
            why: corruption.why.to_owned(),
        }
    }

    pub(super) fn path(&self, file: FileId) -> std::path::PathBuf {
        self.config.dir.join(file.to_string())
    }

    pub(super) fn scan_error(&self, log: LogId, error: ScanError) -> OpenError {
        let file = match &error {
            ScanError::Newer { slot: Some(slot), .. }
            | ScanError::WrongStore { slot }
            | ScanError::WrongPlace { slot, .. }
            | ScanError::SameIdentity { slot, .. }
            | ScanError::Disagrees { slot, .. } => self.path(FileId::Slot(log, *slot)),
            _ => self.path(FileId::Meta(log)),
        };
        match error {
            ScanError::Newer { major, features, .. } => {
                OpenError::NewerFormat { file, found: major, known: FORMAT_MAJOR, features }
            }
            ScanError::Disk(error) => OpenError::Disk { dir: self.config.dir.clone(), error },
            ScanError::PoolTooSmall { needed } => OpenError::Config(ConfigError::new(
                "memory_max",
                self.config.memory_max,
                format!("enough for frames of {needed} bytes, which are in the directory"),
            )),
            other => OpenError::Unusable { file, why: format!("{other}; nothing was changed. {}", remedy(&other)) },
        }
    }
}

/// What to do about a store that cannot be used.
const fn remedy(error: &ScanError) -> &'static str {
    match error {
        ScanError::BlocksTooShort { .. } => "Copy the directory back to a disk like the old one, and drain it there",
        _ => "Restore it from a copy, or save the entries with `ringwal salvage DIR --to NEWDIR`, which needs no META",
    }
}
