//! What happens in a random history, one thing at a time.

use std::time::Duration;

use ringwal::sim::{DiskKind, Prng};
use ringwal::wal::log::Commit;

use super::{Failure, Outcome, Plan, Rig};

pub fn plan(seed: u64) -> Plan {
    let mut prng = Prng::new(seed);
    let commit = match prng.below(10) {
        0..=4 => Commit::Immediate,
        5..=7 => Commit::Periodic(Duration::from_micros(prng.within(200..=5_000))),
        _ => Commit::Spill,
    };
    Plan {
        seed,
        kind: if prng.chance(1, 2) { DiskKind::Fua } else { DiskKind::Flush },
        block_len: if prng.chance(1, 8) { 4096 } else { 512 },
        segment_blocks: *prng.pick(&[8, 12, 16, 24]),
        frame_blocks_max: *prng.pick(&[2, 3, 4]),
        slots_max: *prng.pick(&[3, 4, 6]),
        inflight_max: *prng.pick(&[1, 2, 4]),
        hedge_len: *prng.pick(&[1, 1024, 65_536]),
        commit,
        coded: seed.is_multiple_of(3),
        ..Plan::default()
    }
}

pub fn lens(rig: &mut Rig) -> Vec<usize> {
    let max = (rig.plan.frame_blocks_max * rig.plan.block_len) as usize - 80 - 16;
    (0..rig.prng.within(1..=5))
        .map(|_| match rig.prng.below(8) {
            0 => rig.prng.index(max) + 1,
            _ => rig.prng.index(160) + 8,
        })
        .collect()
}

pub fn finish_some(rig: &mut Rig) -> Outcome<()> {
    let open = rig.unfinished();
    if open.is_empty() {
        return Ok(());
    }
    let lsns: Vec<u64> = match rig.prng.below(4) {
        0 => open,
        1 => {
            let at = rig.prng.index(open.len());
            let len = (rig.prng.index(4) + 1).min(open.len() - at);
            open[at..at + len].to_vec()
        }
        _ => open[..=rig.prng.index(open.len())].to_vec(),
    };
    rig.ack(lsns)
}

/// One random thing happens.
pub fn act(rig: &mut Rig) -> Outcome<()> {
    let now = rig.clock.now();
    match rig.prng.below(100) {
        0..=29 => {
            let lens = lens(rig);
            rig.append(&lens)?;
            if rig.prng.chance(2, 3) {
                rig.submit(usize::MAX)?;
            }
        }
        30..=34 => match rig.prng.below(3) {
            0 => rig.log().seal(now),
            1 => rig.log().commit_now(now),
            _ => rig.log().spill(now),
        },
        35..=44 => {
            let most = rig.prng.index(3) + 1;
            rig.submit(most)?;
        }
        45..=76 => {
            rig.step()?;
        }
        77..=86 => {
            let time = Duration::from_micros(rig.prng.within(1..=4_000));
            rig.wait(time)?;
        }
        87..=97 => finish_some(rig)?,
        _ => {
            let (from, durable) = (rig.model.acked + 1, rig.log().durable().number());
            let read = rig.read_from(ringwal::Lsn::new(from))?;
            rig.events()?;
            let due =
                rig.model.current.range(from..=durable.max(from)).map(|(lsn, _)| *lsn).filter(|lsn| *lsn <= durable);
            let due = due
                .filter(|lsn| !rig.model.ever_done.contains(lsn))
                .find(|lsn| !read.iter().any(|(got, _)| got == lsn));
            if let Some(lsn) = due {
                return Err(Failure::Broken(format!("LSN {lsn} is durable, and the reader did not bring it")));
            }
        }
    }
    Ok(())
}

/// Whatever was appended becomes durable, if the sink only goes on finishing.
pub fn drain(rig: &mut Rig) -> Outcome<()> {
    for _ in 0..60 {
        rig.flush()?;
        if rig.model.is_durable() {
            return Ok(());
        }
        let open = rig.unfinished();
        rig.ack(open)?;
        rig.wait(Duration::from_millis(20))?;
    }
    let stats = rig.log().stats();
    let (room, held) = (rig.log().room(), rig.log().held());
    Err(Failure::Broken(format!(
        "stuck: durable {}, next {}, acked {}, {room:?}, {held} held, {stats:?}",
        rig.model.durable, rig.model.next, rig.model.acked
    )))
}
