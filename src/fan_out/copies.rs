//! A batch of the source as branches take it: bytes, in the branches' own schema.

use crate::delivery::batch::{Batch, RawBatch};
use crate::delivery::lanes::Lane;
use crate::entry::Entry;
use crate::lsn::Lsn;
use crate::sink::{Outcome, Verdict};

/// Entries to be copied, in the order of their LSNs.
pub(crate) struct Copies {
    raw: RawBatch,
    /// For each entry how it comes; empty where all come as they are.
    forms: Vec<Form>,
}

enum Form {
    /// As it lies in the log.
    AsIs,
    /// Encoded anew: it was encoded by an older version of the type.
    Anew(Vec<u8>),
    /// It cannot be a branch's entry, and why.
    Unfit(String),
}

impl Copies {
    /// Takes a batch apart; entries that are longer than `len_max`, as encoded now, do not fit into the branches.
    pub(crate) fn of<T: Entry>(batch: &Batch<T>, len_max: usize) -> Self {
        let raw = batch.raw();
        let is_plain = |index: usize| *raw.schema(index) == T::SCHEMA && raw.bytes(index).len() <= len_max;
        if (0..raw.len()).all(is_plain) {
            return Self { raw, forms: Vec::new() };
        }
        let too_long = |len: usize| Form::Unfit(format!("its {len} bytes are more than entry_len_max, {len_max}"));
        let form = |(index, entry): (usize, &crate::Delivery<T>)| {
            if is_plain(index) {
                return Form::AsIs;
            }
            if *raw.schema(index) == T::SCHEMA {
                return too_long(raw.bytes(index).len());
            }
            let mut bytes = Vec::new();
            match entry.value.encode(&mut bytes) {
                Ok(()) if bytes.len() <= len_max => Form::Anew(bytes),
                Ok(()) => too_long(bytes.len()),
                Err(error) => Form::Unfit(format!("it cannot be encoded as {}: {error}", T::SCHEMA)),
            }
        };
        let forms = batch.iter().enumerate().map(form).collect();
        Self { raw, forms }
    }

    /// Those above `copied` that fit: LSN, lane, bytes.
    pub(crate) fn after(&self, copied: Lsn) -> impl Iterator<Item = (Lsn, Lane, &[u8])> {
        (0..self.raw.len()).filter(move |index| self.raw.lsn(*index) > copied).filter_map(|index| {
            let bytes = match self.forms.get(index) {
                None | Some(Form::AsIs) => self.raw.bytes(index),
                Some(Form::Anew(bytes)) => bytes,
                Some(Form::Unfit(_)) => return None,
            };
            Some((self.raw.lsn(index), self.raw.lane(index), bytes))
        })
    }

    /// What becomes of the batch once every branch has its copies.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.forms.iter().all(|form| !matches!(form, Form::Unfit(_))) {
            return Outcome::ack();
        }
        let verdict = |form: &Form| match form {
            Form::Unfit(why) => Verdict::Park(why.as_str().into()),
            Form::AsIs | Form::Anew(_) => Verdict::Ack,
        };
        Outcome::Each(self.forms.iter().map(verdict).collect())
    }
}
