//! The dispatcher, fed by hand and by chance.

mod breaking;
mod by_chance;
mod by_hand;
mod in_lanes;

use std::time::Duration;

use crate::delivery::batch::RawBatch;
use crate::delivery::dispatcher::{DeliveryConfig, DeliveryEvent, Dispatcher};
use crate::delivery::lease::Lease;
use crate::delivery::retry::{Jitter, Retry};
use crate::lsn::{Lsn, SegmentUid};
use crate::ring::record::{RECORD_HEADER_LEN, State, Word, stride_of};
use crate::schema::Schema;
use crate::time::{Instant, UnixNanos};
use crate::wal::block::Pool;
use crate::wal::coding::BodyCoding;
use crate::wal::cursor::Cursor;
use crate::wal::frame::{FRAME_HEADER_LEN, Frame, FrameHeader, FrameKind};

const SCHEMA: Schema = Schema::new("bytes", 1);

fn at(millis: u64) -> Instant {
    Instant::START + ms(millis)
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}

fn config() -> DeliveryConfig {
    DeliveryConfig {
        batch_len_max: 4,
        batch_bytes_max: 1 << 20,
        linger: ms(5),
        retry: Retry { attempts_max: Some(3), base: ms(100), factor: 2.0, max: ms(300), jitter: Jitter::None },
        breaker: None,
        deliver_timeout: None,
        in_flight_max: 1,
        held_max: 1 << 20,
        adaptive: None,
        partial: true,
        seed: 1,
        unix_start: UnixNanos(1_000_000_000),
    }
}

fn dispatcher(config: DeliveryConfig) -> Dispatcher {
    Dispatcher::new(config, &Cursor::default())
}

/// A frame of these payloads, the first at LSN `first`.
fn frame(first: u64, payloads: &[&[u8]]) -> Frame {
    frame_in(first, payloads, |_| 0)
}

/// The same, each in its lane.
fn frame_in(first: u64, payloads: &[&[u8]], lane: impl Fn(u64) -> u32) -> Frame {
    let mut body = Vec::new();
    for (payload, lsn) in payloads.iter().zip(first..) {
        let start = body.len();
        body.extend(Word::new(State::Ready, RECORD_HEADER_LEN + payload.len()).0.to_le_bytes());
        body.extend(lane(lsn).to_le_bytes());
        body.extend(*payload);
        body.resize(start + stride_of(payload.len()), 0);
    }
    frame_of(FrameKind::Data, first, payloads.len() as u64, &body)
}

fn frame_of(kind: FrameKind, first: u64, lsns: u64, body: &[u8]) -> Frame {
    let mut block = Pool::new(1, (FRAME_HEADER_LEN + body.len()).next_multiple_of(4096)).unwrap().take().unwrap();
    block[FRAME_HEADER_LEN..FRAME_HEADER_LEN + body.len()].copy_from_slice(body);
    let body_len = u32::try_from(body.len()).unwrap();
    let header = FrameHeader {
        kind,
        seg_uid: SegmentUid(1),
        first_lsn: lsn(first),
        next_lsn: lsn(first + lsns),
        durable_lsn: lsn(first - 1),
        acked_lsn: Lsn::ZERO,
        time: UnixNanos(5_000_000_000),
        position: 1,
        record_count: if kind == FrameKind::Data { u32::try_from(lsns).unwrap() } else { 0 },
        coding: BodyCoding::PLAIN,
        body_len,
        raw_len: body_len,
        body_crc: 0,
    };
    Frame { header, block: block.freeze(), runs: Vec::new(), place: None }
}

/// A frame of `count` entries, each holding its LSN.
fn numbered(first: u64, count: u64) -> Frame {
    numbered_in(first, count, |_| 0)
}

/// The same, each in its lane.
fn numbered_in(first: u64, count: u64, lane: impl Fn(u64) -> u32) -> Frame {
    let payloads: Vec<_> = (first..first + count).map(u64::to_le_bytes).collect();
    frame_in(first, &payloads.iter().map(|p| &p[..]).collect::<Vec<_>>(), lane)
}

fn feed(dispatcher: &mut Dispatcher, now: Instant, frame: Frame) {
    dispatcher.handle_frame(now, frame, &SCHEMA).unwrap();
}

/// Takes the batch that is due, and checks that each entry holds its LSN.
fn take(dispatcher: &mut Dispatcher, now: Instant) -> Option<(Lease, Vec<u64>)> {
    let (lease, batch) = dispatcher.poll_delivery(now)?;
    Some((lease, lsns(&batch)))
}

fn lsns(batch: &RawBatch) -> Vec<u64> {
    let lsns: Vec<_> = (0..batch.len()).map(|i| batch.lsn(i).number()).collect();
    for (i, lsn) in lsns.iter().enumerate() {
        assert_eq!(batch.bytes(i), lsn.to_le_bytes(), "entry {lsn}");
    }
    lsns
}

fn events(dispatcher: &mut Dispatcher) -> Vec<DeliveryEvent> {
    std::iter::from_fn(|| dispatcher.poll_event()).collect()
}

/// The latest progress among the events.
fn progress(dispatcher: &mut Dispatcher) -> Cursor {
    let last = events(dispatcher).into_iter().rev().find_map(|event| match event {
        DeliveryEvent::Acked { acked, done, attempts } => Some(Cursor { acked, done, attempts, ..Cursor::default() }),
        _ => None,
    });
    last.expect("there is progress")
}

/// Counted where they stand, they add up.
fn check_sums(dispatcher: &Dispatcher) {
    let counts = dispatcher.counts();
    let stand = [
        dispatcher.pending(),
        dispatcher.in_flight(),
        dispatcher.waiting(),
        dispatcher.parking(),
        counts.delivered,
        counts.parked,
    ];
    assert_eq!(counts.taken, stand.iter().sum::<u64>(), "{stand:?} {counts:?}");
}
