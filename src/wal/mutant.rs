//! Rules of the log that a test can switch off, to see that the checks fail without them.
//!
//! Without the feature `testing` no rule can be switched off and every question is answered at
//! compile time. The table of rules, mutants and the tests that catch them: `docs/TESTING.md`.

/// A rule that is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Mutant {
    /// Recovery leaves abandoned segments as they are.
    NoVoid,
    /// What was written before the last recovery counts beyond the end that it found.
    NoSettledEnd,
    /// After recovery the writer goes on in the old tail segment.
    AppendToTail,
    /// A slot is reused when the sink has acknowledged it, before the cursor is durable (W4).
    RecycleEarly,
    /// A frame is acknowledged when its own write completes, whatever is in flight before it (W1).
    AckOutOfOrder,
    /// Readers do not compare a frame's uid with its segment's.
    NoUid,
    /// Readers do not demand that a frame begins where the one before it ended.
    NoLsnChain,
    /// Recovery does not step over a MARK that was lost.
    MarkNotSteppedOver,
    /// Recovery does not look ahead for promises: every hole is a torn tail.
    NoLookAhead,
    /// Recovery takes `prev_end_lsn` for a promise.
    PrevEndIsPromise,
    /// What lies at or below the cursor can be an error.
    DeadIsError,
    /// Several segment headers may be in flight together (W3).
    TwoHeaders,
    /// A new segment is linked to the last one, even if that holds no record.
    LinkToEmpty,
    /// Recovery decides on what it sees without making it durable first.
    NoSyncBeforeRead,
    /// A frame promises what is in flight, not what is durable (W2).
    PromiseEarly,
    /// Periodic: the sync is issued without waiting for the writes it must cover.
    SyncEarly,
    /// After a failed sync what it was to cover is synced once more, instead of failing.
    SyncAgain,
    /// Frames of `Immediate` go out as plain writes, and count as durable when they complete.
    NoDsync,
    /// A frame that is written by two ops counts as written when one of them has completed.
    PartIsAll,
    /// `Spill` shows entries before their LSNs are reserved.
    NoReserve,
    /// Recovery gives out LSNs that META says were reserved.
    ReservedForgotten,
    /// LSNs that `Spill` leaves out are not said by a SKIP.
    NoSkip,
    /// A slot gets the uid again that it had two uses ago.
    SameUid,
    /// A frame's body is taken without its checksum.
    BodyUnchecked,
    /// A frame's header is taken without its checksum.
    HeaderUnchecked,
    /// One copy of META does not step in for the other.
    OneMeta,
    /// The cursor is always written over the same copy.
    CursorInPlace,
    /// Recovery does not know what the sink has finished above the cursor.
    NoRanges,
    /// Recovery does not know where the log was closed.
    NoCleanEnd,
    /// A cut by policy leaves the promises that were made for what it cuts off.
    CutKeepsPromise,
    /// What is in flight counts as written: rings that outlive the process let it go.
    InFlightIsWritten,
    /// An opening settles what is lost or torn without writing down that it is still to be told.
    SettledUntold,
}

impl Mutant {
    /// All of them, so that a test can see that it has left none out.
    #[cfg(feature = "testing")]
    pub const ALL: &'static [Self] = &[
        Self::NoVoid,
        Self::NoSettledEnd,
        Self::AppendToTail,
        Self::RecycleEarly,
        Self::AckOutOfOrder,
        Self::NoUid,
        Self::NoLsnChain,
        Self::MarkNotSteppedOver,
        Self::NoLookAhead,
        Self::PrevEndIsPromise,
        Self::DeadIsError,
        Self::TwoHeaders,
        Self::LinkToEmpty,
        Self::NoSyncBeforeRead,
        Self::PromiseEarly,
        Self::SyncEarly,
        Self::SyncAgain,
        Self::NoDsync,
        Self::PartIsAll,
        Self::NoReserve,
        Self::ReservedForgotten,
        Self::NoSkip,
        Self::SameUid,
        Self::BodyUnchecked,
        Self::HeaderUnchecked,
        Self::OneMeta,
        Self::CursorInPlace,
        Self::NoRanges,
        Self::NoCleanEnd,
        Self::CutKeepsPromise,
        Self::InFlightIsWritten,
        Self::SettledUntold,
    ];
}

/// The rules that are switched off: none, outside tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mutants {
    #[cfg(feature = "testing")]
    bits: u32,
}

impl Mutants {
    /// Every rule holds.
    pub const NONE: Self = Self {
        #[cfg(feature = "testing")]
        bits: 0,
    };

    /// Only these rules are switched off.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn only(mutants: &[Mutant]) -> Self {
        Self { bits: mutants.iter().fold(0, |bits, m| bits | 1 << (*m as u32)) }
    }

    /// Whether this rule is switched off.
    #[must_use]
    pub const fn has(self, mutant: Mutant) -> bool {
        #[cfg(feature = "testing")]
        {
            self.bits & (1 << (mutant as u32)) != 0
        }
        #[cfg(not(feature = "testing"))]
        {
            let _ = mutant;
            false
        }
    }
}
