//! The breaker between batches and sink.

use super::*;
use crate::delivery::breaker::{Breaker, BreakerState, FailureShare};
use crate::sink::{Outcome, Verdict};

fn breaking(failures: u32) -> DeliveryConfig {
    let breaker = Some(Breaker { failures, open_for: ms(1000), ..Breaker::default() });
    let retry = Retry { attempts_max: Some(5), ..config().retry };
    DeliveryConfig { breaker, retry, ..config() }
}

#[test]
fn while_it_is_open_nothing_leaves_and_no_attempt_is_used_up() {
    let mut d = dispatcher(breaking(2));
    feed(&mut d, at(0), numbered(1, 8));
    for now in [at(0), at(100)] {
        let (lease, _) = take(&mut d, now).unwrap();
        d.handle_verdict(now, lease, Outcome::retry("down"));
    }
    assert_eq!((d.breaker(), d.breaker_opened()), (BreakerState::Open, 1));
    // The retry would be due at 300.
    assert!(d.poll_delivery(at(1099)).is_none());
    assert_eq!(d.poll_timeout(), Some(at(1100)));
    let (lease, again) = d.poll_delivery(at(1100)).unwrap();
    assert_eq!((lsns(&again), again.attempt(), d.breaker()), (vec![1, 2, 3, 4], 3, BreakerState::HalfOpen));
    d.handle_verdict(at(1101), lease, Outcome::ack());
    assert_eq!(d.breaker(), BreakerState::Closed);
    assert_eq!(take(&mut d, at(1101)).unwrap().1, [5, 6, 7, 8]);
    check_sums(&d);
}

#[test]
fn it_becomes_half_open_by_time_alone() {
    let mut d = dispatcher(DeliveryConfig { retry: Retry { attempts_max: Some(1), ..config().retry }, ..breaking(1) });
    feed(&mut d, at(0), numbered(1, 4));
    let (lease, _) = take(&mut d, at(0)).unwrap();
    d.handle_verdict(at(0), lease, Outcome::retry("down"));
    let park = events(&mut d).into_iter().find_map(|event| match event {
        DeliveryEvent::Park { lease, .. } => Some(lease),
        _ => None,
    });
    d.handle_parked(park.unwrap());
    // Nothing is left to deliver, and still the time counts.
    assert_eq!(d.poll_timeout(), Some(at(1000)));
    d.handle_timeout(at(1000));
    assert_eq!((d.breaker(), d.poll_timeout()), (BreakerState::HalfOpen, None));
}

#[test]
fn a_sink_that_acknowledges_or_parks_anything_is_there() {
    let mut d = dispatcher(breaking(1));
    feed(&mut d, at(0), numbered(1, 4));
    let retry = || Verdict::Retry("no".into());
    let (lease, _) = take(&mut d, at(0)).unwrap();
    d.handle_verdict(at(0), lease, Outcome::Each(vec![retry(), retry(), Verdict::Ack, retry()]));
    let (lease, _) = take(&mut d, at(100)).unwrap();
    d.handle_verdict(at(100), lease, Outcome::Each(vec![retry(), Verdict::Park("never".into()), retry()]));
    assert_eq!(d.breaker(), BreakerState::Closed);
}

#[test]
fn a_lease_that_is_dropped_counts_as_a_failure_and_an_entry_that_does_not_decode_counts_as_nothing() {
    let mut d = dispatcher(breaking(1));
    feed(&mut d, at(0), numbered(1, 4));
    let (lease, _) = take(&mut d, at(0)).unwrap();
    for index in 0..4 {
        d.handle_undecodable(&lease, index, "rubbish");
    }
    d.handle_verdict(at(0), lease, Outcome::ack());
    assert_eq!(d.breaker(), BreakerState::Closed);
    let mut d = dispatcher(breaking(1));
    feed(&mut d, at(0), numbered(1, 4));
    drop(take(&mut d, at(0)).unwrap());
    d.handle_timeout(at(1));
    assert_eq!(d.breaker(), BreakerState::Open);
}

#[test]
fn a_share_of_failures_opens_it_though_successes_lie_between() {
    let share = Some(FailureShare { percent: 50, of: 4 });
    let breaker = Some(Breaker { failures: 100, share, open_for: ms(1000), probes: 1 });
    let retry = Retry { attempts_max: None, base: ms(1), factor: 1.0, max: ms(1), jitter: Jitter::None };
    let mut d = dispatcher(DeliveryConfig { breaker, retry, batch_len_max: 1, ..config() });
    feed(&mut d, at(0), numbered(1, 4));
    for (now, outcome) in [(0, Outcome::retry("no")), (1, Outcome::ack()), (2, Outcome::ack())] {
        let (lease, _) = take(&mut d, at(now)).unwrap();
        d.handle_verdict(at(now), lease, outcome);
    }
    assert_eq!(d.breaker(), BreakerState::Closed);
    let (lease, _) = take(&mut d, at(3)).unwrap();
    d.handle_verdict(at(3), lease, Outcome::retry("no"));
    assert_eq!(d.breaker(), BreakerState::Open);
}

/// The call that hung was taken for the batch that the half-open breaker had let through, and nothing went out for as long
/// as it hung.
#[test]
fn a_call_that_hung_when_it_opened_holds_up_no_probe_and_its_answer_decides_nothing() {
    let retry = Retry { attempts_max: None, base: ms(1), factor: 1.0, max: ms(1), jitter: Jitter::None };
    let config =
        DeliveryConfig { in_flight_max: 4, linger: ms(0), deliver_timeout: Some(ms(50)), retry, ..breaking(5) };
    let mut d = dispatcher(config);
    feed(&mut d, at(0), numbered_in(1, 1, |_| 1));
    let (hung, _) = take(&mut d, at(0)).unwrap();
    feed(&mut d, at(0), numbered_in(2, 2, |_| 2));
    for now in 0..5 {
        let (lease, _) = take(&mut d, at(now)).unwrap();
        d.handle_verdict(at(now), lease, Outcome::retry("down"));
    }
    assert_eq!((d.breaker(), d.breaker_open_until()), (BreakerState::Open, Some(at(1004))));
    d.handle_timeout(at(1004));
    assert_eq!((d.breaker(), d.in_flight(), d.poll_timeout()), (BreakerState::HalfOpen, 1, Some(at(5))));
    let (probe, batch) = take(&mut d, at(1004)).expect("the probe goes out");
    assert_eq!(batch, [2, 3]);
    feed(&mut d, at(1004), numbered_in(4, 1, |_| 3));
    assert!(take(&mut d, at(1004)).is_none(), "one at a time");
    d.handle_verdict(at(1005), hung, Outcome::ack());
    assert_eq!(d.breaker(), BreakerState::HalfOpen);
    assert!(take(&mut d, at(1005)).is_none(), "the probe is still out");
    d.handle_verdict(at(1006), probe, Outcome::ack());
    assert_eq!((d.breaker(), take(&mut d, at(1006)).unwrap().1), (BreakerState::Closed, vec![4]));
    check_sums(&d);
}
