//! What of a log is there after a stop, orderly or not, and how it is made ready to be written.
//!
//! ```text
//!  Scan    List → Sync all → META, cursor → headers → frames of the newest segments → the walk
//!                                                                                      │ Scanned
//!  engine  refuses other schemas, and corruption under `Stop`                          ▼
//!  Repair  (META, copies, cursor) → void → META: epoch + 1                         Recovered
//! ```
//! # Torn or corrupt
//! Every frame and every segment header carries a *promise*: the LSN that was durable when it was
//! built. Pass 1 collects the freshest promise anywhere: cursor, META (an orderly end, the last
//! recovered end), all headers, all frames of the segments that are read. Pass 2 walks the segments
//! in LSN order. A hole below the promise is corruption, one above it is the torn tail. Nothing is
//! guessed from zeros or from a file's length, so space can be recycled.
//!
//! The run of segments starts with the newest one whose base is at most `acked + 1`, and goes on with
//! the newest one that names the last as its predecessor. Segments that lie wholly below the headers'
//! promise are not read: they are verified when they stream to delivery.
//!
//! `e` is the LSN that is expected, `g` the first one from `e` on that the sink is not done with.
//!
//! | label | found                                                            | decision                                   |
//! |-------|------------------------------------------------------------------|--------------------------------------------|
//! | A     | a whole frame of this segment, here, beginning at `e`             | taken                                      |
//! | B     | none, and a later one in the segment begins at `e`               | a MARK was lost: on there                  |
//! | C     | none, and all that is missing is at or below the cursor, or done | dead, never an error: on behind it         |
//! | D     | none, promise ≥ `g`, a later one begins at `f`                   | corruption `g..f`, on at `f`               |
//! | E     | none, promise ≥ `g`, none later, a next segment                  | corruption up to the next segment's base   |
//! | F     | none, promise ≥ `g`, none later, no next segment                 | corruption up to the promise (see J), torn behind it |
//! | G     | none, promise < `g`                                              | torn tail: the log ends at `g - 1`         |
//! | H     | the log goes on behind the end at which it was closed            | corruption                                 |
//! | I     | no segment holds `acked + 1`, promise ≤ `acked`                  | the log is empty                           |
//! | J     | segments are missing, promise ≥ `g`                              | corruption up to the next segment there is |
//! | J     | segments are missing, all that was promised is done              | dead: on in the next one that begins no later than the promise |
//! | J     | a segment is missing that one of this incarnation follows        | corruption up to where that one begins     |
//! | K     | a segment begins behind the end                                  | abandoned: voided before anything is written |
//! | L     | a segment wholly below the headers' promise                      | taken unread                               |
//! | N     | as D, E or J, but the promise ends within the hole               | corruption up to the promise, torn there: the log ends |
//! | O     | a segment of an incarnation before the last recovery             | counts up to the end that recovery found   |
//! | P     | as G, but a block that would come next cannot be read              | corruption, up to what may lie there       |
//! | P     | a segment's header cannot be read, and it has no place in front of the end | corruption, up to what may lie there |
//! | M     | as G, and nothing was begun there                                | the log ends here; no torn tail reported   |
//!
//! Each case has a test that carries its label.
//!
//! # What keeps a decision
//! The next incarnation never appends to the old tail: it begins a new segment. META's `recovered`
//! end says where all that was written before ends for good (O): not only the old tail, because when
//! the segments after it have been consumed and their slots reused or removed, an older one may become
//! the start again, with frames that a tear stranded in it. Abandoned segments are voided besides,
//! before META says that the recovery is over. What a policy gave up stands in the cursor as
//! done (`Quarantine`), or is cut off by `recovered` with the cursor's promise lowered (`CutTail`);
//! META reserves the lost LSNs first, so none is ever given out twice.
//!
//! A failed recovery can be run again: cut off at any op, the next scan decides the same.
//! Decisions: `docs/adr/0005-promise-decides-torn-or-corrupt.md`,
//! `docs/adr/0006-slot-files-overwritten-in-place.md`.

pub(crate) mod fetch;
pub(crate) mod find;
pub(crate) mod judge;
mod links;
mod repair;
mod report;
mod scan;
mod tail;
mod walk;
pub use repair::Repair;
pub use report::{
    Corruption, OnCorruption, Recovered, ScanError, ScanReport, Scanned, SlotReport, SlotState, StoreConfig, TornTail,
};
pub use scan::Scan;

#[cfg(all(test, not(loom)))]
pub(crate) mod fake;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(all(test, not(loom), feature = "testing"))]
mod walk_tests;
