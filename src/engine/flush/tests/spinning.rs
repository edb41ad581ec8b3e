//! What a flush core that spins does while it waits for the disk.

use super::*;
use crate::config::Idle;

/// For as long as a write takes that is worth it. Then whoever ends the write for the kernel may need this processor.
#[test]
fn who_spins_looks_for_its_write_for_a_while_and_then_sleeps_until_it_is_over() {
    let (machine, clock) = machine();
    let mut stage = Stage::open_with(builder(Durability::Immediate, 4096).idle(Idle::Spin), machine, clock, 1);
    let mut durable = stage.push();
    assert!(!is_told(&mut durable));
    // All that it asks of the disk is asked now.
    (0..100).for_each(|_| _ = stage.queue.turn_core());
    let begun = stage.clock.now();
    let writes: Vec<_> =
        stage.machine.in_flight().iter().filter(|op| op.kind == OpKind::Write).map(|op| op.number).collect();
    assert!(!writes.is_empty());
    let after = |micros| begun + Duration::from_micros(micros);
    stage.clock.advance_to(after(199));
    (0..100).for_each(|n| assert!(stage.queue.turn_core(), "it spins, turn {n}"));
    assert_eq!(stage.queue.next_due(), None);
    stage.clock.advance_to(after(200));
    // A rest that was chosen before, then one that knows.
    assert!(stage.queue.turn_core());
    for due in [250, 300] {
        assert!(!stage.queue.turn_core(), "it sleeps");
        assert_eq!(stage.queue.next_due(), Some(after(due)), "for a moment at a time");
        stage.clock.advance_to(after(due));
        assert!(stage.queue.turn_core(), "and looks what has come meanwhile");
    }
    assert!(!stage.queue.turn_core());
    writes.iter().for_each(|write| stage.machine.finish(*write));
    assert!(stage.queue.turn_core(), "the write's end ends it at once");
    (0..100).for_each(|n| assert!(stage.queue.turn_core(), "it spins again, turn {n}"));
}
