//! What an opening says that was torn or given up: what it found itself, and what earlier ones may have told nobody.

use crate::engine::flush::Flush;
use crate::lsn::Lsn;
use crate::ranges::Ranges;
use crate::recovery::Earlier;
use crate::wal::op::{FileId, LogId};
use crate::wal::recovery::{Recovered, TornTail};
use crate::wal::untold::Untold;

/// Of one log.
pub(super) struct Found {
    pub(super) torn_tail: Option<String>,
    /// First and last.
    pub(super) lost: Vec<(Lsn, Lsn)>,
    earlier: Untold,
}

impl Found {
    /// `torn`: as the scan found it.
    pub(super) fn new(log: LogId, torn: Option<&TornTail>, recovered: &Recovered) -> Self {
        let earlier = &recovered.earlier;
        let now = torn.map(|torn| torn_text(log, torn));
        let before = earlier.torn.as_ref().map(|torn| {
            let times = if earlier.tears > 1 { format!(", the last of {}", earlier.tears) } else { String::new() };
            format!("an opening before this one, which may have told nobody{times}, found: {}", torn_text(log, torn))
        });
        let texts: Vec<String> = now.into_iter().chain(before).collect();
        let mut lost = Ranges::default();
        for (first, next) in recovered.lost.iter().chain(&earlier.lost) {
            lost.add(*first, *next);
        }
        Self {
            torn_tail: (!texts.is_empty()).then(|| texts.join("; ")),
            lost: closed(&lost.all()),
            earlier: earlier.clone(),
        }
    }
}

/// What of it earlier openings had found.
pub(super) fn earlier(main: &Found, park: &Found) -> Earlier {
    let mut notes = Vec::new();
    for (found, what) in [(main, "entries"), (park, "parked entries")] {
        if found.earlier.is_joined {
            notes.push(format!(
                "an earlier opening gave up {what} in more runs than can be told: what lies between some of them is named \
                 with them, and not lost"
            ));
        }
        if found.earlier.is_unclear {
            notes.push(format!(
                "META says that an earlier opening gave up {what}, but not which: that part of it makes no sense"
            ));
        }
    }
    Earlier { lost: closed(&main.earlier.lost), lost_parked: closed(&park.earlier.lost), notes }
}

/// A log counts to one past the last, people to the last.
fn closed(runs: &[(Lsn, Lsn)]) -> Vec<(Lsn, Lsn)> {
    runs.iter().map(|(first, next)| (*first, next.prev())).collect()
}

fn torn_text(log: LogId, torn: &TornTail) -> String {
    format!(
        "the log ends at LSN {}: what lies behind it, in {} at offset {}, was torn (or rotted: the two cannot be \
         told apart there) and had not been promised to anyone; {} broken frames",
        torn.end,
        FileId::Slot(log, torn.slot),
        torn.offset,
        torn.broken_frames
    )
}

impl Flush {
    /// A push or the end has come from whoever opened the queue, who so has its report: what stands on disk to be told need
    /// not be told again. Where nothing stands there this costs nothing.
    pub(super) fn opening_is_told(&mut self) {
        if self.shared.status.is_opened() {
            self.log.opening_is_told();
            self.parking.log.opening_is_told();
        }
    }
}
