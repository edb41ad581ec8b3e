//! The way through memory, with channels: threads that send, one that receives and reads.
//!
//! Bounded ones, as a ring is, with blocking calls of theirs: what a service would write. Each with few slots and with
//! many; the better counts.

use crate::measure::Scale;
use crate::memory::{PRODUCERS, SLOTS, name, through};
use crate::table::Table;

/// Millions a second, by scale, producers and slots.
type Rate = fn(Scale, usize, usize) -> f64;

pub(crate) const CHANNELS: [(&str, Rate); 3] =
    [("crossbeam-channel", crossbeam_channel), ("flume", flume), ("kanal", kanal)];

pub(crate) fn run(scale: Scale, table: &mut Table) {
    for producers in PRODUCERS {
        for (peer, rate) in CHANNELS {
            let rates = SLOTS.map(|slots| rate(scale, producers, slots));
            table.add(name(peer, producers), "M/s", rates.into_iter().fold(0.0, f64::max));
        }
    }
}

fn crossbeam_channel(scale: Scale, producers: usize, slots: usize) -> f64 {
    let (to, from) = crossbeam_channel::bounded(slots);
    let new_producer = || {
        let to = to.clone();
        move |entry| to.send(entry).expect("a receiver")
    };
    through(scale, producers, new_producer, || from.recv().expect("a sender"))
}

fn flume(scale: Scale, producers: usize, slots: usize) -> f64 {
    let (to, from) = flume::bounded(slots);
    let new_producer = || {
        let to = to.clone();
        move |entry| to.send(entry).expect("a receiver")
    };
    through(scale, producers, new_producer, || from.recv().expect("a sender"))
}

fn kanal(scale: Scale, producers: usize, slots: usize) -> f64 {
    let (to, from) = kanal::bounded(slots);
    let new_producer = || {
        let to = to.clone();
        move |entry| to.send(entry).expect("a receiver")
    };
    through(scale, producers, new_producer, || from.recv().expect("a sender"))
}
