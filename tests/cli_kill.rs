//! `ringwal pipe` into SQLite, killed again and again: every line exactly once.

#[path = "cli/mod.rs"]
mod cli;

use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use cli::{Place, assert_rows_are_lines, finish, real_text, signal, until};
use rustix::process::Signal;

const KILLS: usize = 10;

/// With more to do where this process has so few turns that the program is through before enough kills.
fn survives_kills(durability: &str, bytes: usize) {
    let hits = [1, 3, 9].into_iter().any(|times| survives_kills_of(durability, times * bytes) >= KILLS / 2);
    assert!(hits, "too few kills hit; the input is too short for this machine");
}

/// Kills a run whenever another share of the lines has arrived, then lets one end. Gives how many of the kills hit.
fn survives_kills_of(durability: &str, bytes: usize) -> usize {
    let place = Place::new();
    let input = real_text(bytes);
    let lines = input.iter().filter(|byte| **byte == b'\n').count();
    place.write("in", &input);
    let args = ["--from", "in", "--to", "sqlite:out.db", "--durability", durability, "--quiet"];
    let mut chance =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() as usize;
    let mut draw = |below: usize| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % below
    };
    let mut killed = 0;
    for kill in 0..KILLS {
        let target = lines * (kill * 90 + draw(80)) / (KILLS * 100);
        let mut child = place.start_pipe(&args);
        until("lines arrive", || place.count("out.db") >= target || child.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_micros(draw(30_000) as u64));
        child.kill().unwrap();
        let done = finish(child, b"");
        if done.code() == 0 {
            break;
        }
        assert_eq!(done.status.to_string(), "signal: 9 (SIGKILL)", "{done:?}");
        killed += 1;
    }
    place.pipe(&args, b"").expect(0);
    assert_rows_are_lines(&place.rows("out.db"), &input);
    // And once more: there is nothing left to do.
    place.pipe(&args, b"").expect(0);
    assert_eq!(place.count("out.db"), lines);
    killed
}

#[test]
fn every_line_arrives_exactly_once_over_ten_kills_with_periodic() {
    survives_kills("periodic:5ms", 20_000_000);
}

#[test]
fn every_line_arrives_exactly_once_over_ten_kills_with_immediate() {
    survives_kills("immediate", 20_000_000);
}

#[test]
fn acknowledged_lines_of_standard_input_survive_a_kill() {
    for durability in ["immediate", "periodic:50ms", "spill"] {
        let place = Place::new();
        // The sink takes nothing, so that only the log can know the lines.
        let args = ["--to", "exec:exit 1", "--retry-max", "0", "--ack", "--durability", durability, "--quiet"];
        let mut child = place.start_pipe(&args);
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            for number in 1.. {
                if writeln!(stdin, "line {number}").is_err() {
                    return;
                }
            }
        });
        let mut acked = 0;
        let (mut told, mut line) = (BufReader::new(child.stdout.take().unwrap()), String::new());
        // A piece of a number, behind which the kill came, tells nothing.
        while told.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            let number: u64 = line.trim_end().parse().unwrap();
            assert_eq!(number, acked + 1, "numbers come in order");
            line.clear();
            acked = number;
            if acked == 5000 {
                signal(&child, Signal::KILL);
            }
        }
        child.wait().unwrap();
        writer.join().unwrap();
        assert!(acked >= 5000);
        place.pipe(&["--to", "file:out"], b"").expect(0);
        let out = place.read("out");
        for (line, number) in out.lines().zip(1..=acked) {
            assert_eq!(line, format!("line {number}"), "{durability}");
        }
        assert!(out.lines().count() as u64 >= acked, "{durability}: {acked} lines were acknowledged");
    }
}

#[test]
fn a_termination_signal_ends_in_order_and_the_next_run_goes_on() {
    for (name, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        // With more to do where this process has no turn until the program is through.
        let hits = [1, 4, 16].into_iter().any(|times| is_stopped_on_the_way(name, code, times * 12_000_000));
        assert!(hits, "{name:?} comes too late; the input is too short for this machine");
    }
}

/// False: it had ended by itself, or had nothing left.
fn is_stopped_on_the_way(name: Signal, code: i32, bytes: usize) -> bool {
    let place = Place::new();
    let input = real_text(bytes);
    place.write("in", &input);
    let args = ["--from", "in", "--to", "sqlite:out.db", "--shutdown-within", "100ms"];
    let child = place.start_pipe(&args);
    until("lines arrive", || place.count("out.db") > 1000);
    signal(&child, name);
    let done = finish(child, b"");
    if done.code() == 0 {
        return false;
    }
    let done = done.expect(code);
    if !done.err.contains("left in the log") {
        return false;
    }
    let before = place.count("out.db");
    assert!(place.json(&["inspect", "--json", "q"])["clean"].as_bool().unwrap());
    let done = place.pipe(&args, b"").expect(0);
    assert!(done.err.contains("goes on behind line"), "{done:?}");
    assert!(before < place.count("out.db"), "it was stopped on the way");
    assert_rows_are_lines(&place.rows("out.db"), &input);
    true
}

/// On a busy machine a run was told to end while its log was full. What was in the rings and found no room was
/// lost, as the library says in its answer, but `pipe.json` put the resume point behind it: 65,152 lines were
/// never read again.
#[test]
fn lines_that_found_no_room_in_a_full_log_are_read_again() {
    let mut was_full = false;
    for durability in ["immediate", "periodic:5ms", "spill"] {
        let place = Place::new();
        let input = real_text(24_000_000);
        place.write("in", &input);
        let from = ["--from", "in", "--durability", durability, "--shutdown-within", "100ms"];
        // The sink takes nothing: eight megabytes of log are full before the input is at its end.
        let child = place.start_pipe(&[&from[..], &["--to", "exec:exit 1", "--retry-max", "0"]].concat());
        let is_input = |fd: &std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|to| to == place.path("in"));
        let read_so_far = || {
            let fd = std::fs::read_dir(format!("/proc/{}/fd", child.id())).ok()?.flatten().find(is_input)?.file_name();
            let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{}", child.id(), fd.display())).ok()?;
            info.lines().find_map(|line| line.strip_prefix("pos:")?.trim().parse::<u64>().ok())
        };
        let (mut before, mut same) = (None, 0);
        until("nothing more is read", || {
            let now = read_so_far();
            let segments = std::fs::read_dir(place.path("q")).map_or(0, |q| {
                q.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("seg-")).count()
            });
            // With `spill` all of it waits in memory.
            let stands = segments == 8 || now == Some(input.len() as u64);
            same = if now == before && now.is_some() && stands { same + 1 } else { 0 };
            before = now;
            same > 100
        });
        signal(&child, Signal::TERM);
        let done = finish(child, b"").expect(143);
        was_full |= done.err.contains("found no room in the log and will be read again");
        place.pipe(&[&from[..4], &["--to", "file:out"]].concat(), b"").expect(0);
        let out = std::fs::read(place.path("out")).unwrap();
        assert!(out == input, "{durability}: {} bytes of {} arrived", out.len(), input.len());
    }
    assert!(was_full, "the log was never full");
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new();
    let mut child = place.start_pipe(&["--to", "exec:touch begun; sleep 30", "--shutdown-within", "60s"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\n").unwrap();
    until("the sink has the line", || place.path("begun").exists());
    signal(&child, Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it waits for the sink");
    signal(&child, Signal::TERM);
    until("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(143));
}
