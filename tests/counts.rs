//! What a push, and an entry on its way, may cost: instructions, locked instructions, system calls, allocations. Counts,
//! not times: they are the same on a busy machine. `examples/counts` counts them, in release code, which is built here.
//!
//! The bounds are what was counted, and a tenth more for instructions. Another compiler, or a C library that copies in
//! another way, may need others; the figures of a failure say which. Who makes something cheaper lowers the bound.

use std::process::{Command, Output};

/// Bounds for one push, or one entry.
struct Bound {
    of: &'static str,
    instructions: f64,
    /// Exact where there is one for each; a share where a turn's are spread over its hundred entries.
    locked: f64,
    calls: f64,
    allocations: f64,
}

const fn bound(of: &'static str, instructions: f64, locked: f64, allocations: f64) -> Bound {
    Bound { of, instructions, locked, calls: 0.0, allocations }
}

const BOUNDS: &[Bound] = &[
    bound("push, pinned, 8 B", 49.0, 0.0, 0.0),
    bound("push, pinned, 64 B", 63.0, 0.0, 0.0),
    bound("push, pinned, 100 B", 76.0, 0.0, 0.0),
    bound("push, shared, 8 B", 60.0, 1.0, 0.0),
    bound("push, shared, 64 B", 72.0, 1.0, 0.0),
    bound("push, shared, 100 B", 84.0, 1.0, 0.0),
    // A call takes a claim for each 16 KiB, and its vector of entries grows: for a call of a hundred, not for each entry.
    bound("push_batch, 8 B", 72.0, 0.02, 0.06),
    bound("push_batch, 64 B", 139.0, 0.02, 0.06),
    bound("push_batch, 100 B", 131.0, 0.02, 0.06),
    // A turn of the flush core drains the hundred, and makes a frame of them.
    bound("drain, 8 B", 74.0, 0.20, 0.0),
    bound("drain, 100 B", 73.0, 0.20, 0.0),
    // A batch of a hundred: what is allocated is for the batch.
    bound("deliver, 8 B", 262.0, 0.73, 0.10),
    bound("deliver, 100 B", 300.0, 0.73, 0.10),
];

const COUNTED: [&str; 4] = ["instructions", "locked instructions", "system calls", "allocations"];

/// For comparison only.
const PEERS: [&str; 2] = ["rtrb", "ArrayQueue"];

/// The program, built if need be. `None`, said aloud, where it cannot count or there is no cargo.
fn program() -> Option<Command> {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("SKIPPED: instructions are counted on x86-64 only");
        return None;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["build", "--release", "--locked", "--features", "testing", "--example", "counts"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let built = match cargo.output() {
        Ok(built) => built,
        Err(error) => {
            eprintln!("SKIPPED: the counted program cannot be built, cargo does not start: {error}");
            return None;
        }
    };
    assert!(built.status.success(), "{}", text(&built.stderr));
    let path = text(&built.stdout).lines().filter_map(executable_in).next_back().expect("cargo says where it is");
    Some(Command::new(path))
}

/// The program that one of cargo's messages tells of.
fn executable_in(message: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == "counts").then(|| message["executable"].as_str().map(str::to_owned)).flatten()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
    output
}

#[test]
fn a_push_and_an_entry_on_its_way_keep_their_counts() {
    let Some(mut program) = program() else { return };
    let table = text(&succeed(&mut program).stdout);
    eprintln!("{table}");
    let mut seen = Vec::new();
    let mut broken = Vec::new();
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (name, figures) = cells.split_first().expect("a line has cells");
        if PEERS.iter().any(|peer| name.starts_with(peer)) {
            continue;
        }
        let Some(bound) = BOUNDS.iter().find(|bound| bound.of == *name) else {
            panic!("{name:?} has no bound");
        };
        seen.push(bound.of);
        let bounds = [bound.instructions, bound.locked, bound.calls, bound.allocations];
        assert_eq!(figures.len(), bounds.len(), "{line}");
        for ((figure, most), what) in figures.iter().zip(bounds).zip(COUNTED) {
            if figure.parse::<f64>().expect("a number") > most {
                broken.push(format!("{name}: {figure} {what}, at most {most}"));
            }
        }
    }
    assert!(BOUNDS.iter().all(|bound| seen.contains(&bound.of)), "not counted: all but {seen:?}");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Most calls for a commit that a thread waits for, be it of one entry or of 64: who waits sleeps and is woken, the flush
/// core parks before the push and while the disk works. Two or three of each are usual; more when they just miss each other.
const CALLS_OF_COMMIT: &[(&str, f64)] = &[("io_uring_enter", 5.0), ("write", 3.0), ("membarrier", 3.0), ("futex", 8.0)];
/// Commits of the two runs whose difference counts, so that opening and closing do not.
const COMMITS: [u32; 2] = [50, 250];

/// Whether strace is here, and may trace; said aloud where not.
fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-qq", "-f", "-e", "trace=none", "true"]).output();
    let can = traced.is_ok_and(|out| out.status.success());
    if !can {
        eprintln!("SKIPPED: strace is not here, or may not trace");
    }
    can
}

/// How often a commit makes this call, by two traces: of few commits and of many.
fn each(call: &str, [few, many]: &[String; 2]) -> f64 {
    let count = |lines: &str| lines.lines().filter(|line| line.contains(&format!("{call}("))).count() as f64;
    (count(many) - count(few)) / f64::from(COMMITS[1] - COMMITS[0])
}

#[test]
fn a_commit_keeps_its_calls_and_a_group_makes_no_more_than_one_entry() {
    let Some(program) = can_trace().then(program).flatten() else { return };
    let names: Vec<&str> = CALLS_OF_COMMIT.iter().map(|(call, _)| *call).collect();
    for what in ["acks", "groups"] {
        let too_many = || {
            let traces = COMMITS.map(|count| calls_of(&program, what, count, &names));
            // Without a ring there is another driver, which makes other calls; but somebody waits in every commit.
            assert!(traces[1].lines().count() > COMMITS[1] as usize, "strace has seen next to nothing: {traces:?}");
            let mut told = Vec::new();
            for (call, most) in CALLS_OF_COMMIT {
                let each = each(call, &traces);
                eprintln!("{what}: {each:.2} {call} a commit");
                if each > *most {
                    told.push(format!("{each:.2} calls of {call} a commit, at most {most}"));
                }
            }
            told
        };
        // They miss each other more often where others take their turns, but not each time.
        let tries: Vec<_> = std::iter::repeat_with(too_many).take(3).take_while(|told| !told.is_empty()).collect();
        assert!(tries.len() < 3, "{what}: {tries:?}");
    }
}

/// A thread that yields again and again may starve all others on its processor: `docs/adr/0030-who-spins-sleeps-for-a-late-disk.md`.
/// Not that there are none: who finds a lock taken, as there is one in the driver of threads, gives its turn away.
#[test]
fn a_flush_core_does_not_yield_however_it_waits() {
    let Some(program) = can_trace().then(program).flatten() else { return };
    for what in ["spins", "acks"] {
        let yields = calls_of(&program, what, COMMITS[1], &["sched_yield"]).matches("sched_yield(").count();
        eprintln!("{what}: {yields} yields in {} commits", COMMITS[1]);
        assert!(yields <= COMMITS[1] as usize / 20, "{what}: {yields} yields in {} commits", COMMITS[1]);
    }
}

/// Those of these calls that a run makes with so many commits, one a line.
fn calls_of(program: &Command, what: &str, count: u32, names: &[&str]) -> String {
    let log = tempfile::NamedTempFile::new().expect("a file for strace");
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-f", "-e", &format!("trace={}", names.join(",")), "-o"]).arg(log.path());
    succeed(strace.arg(program.get_program()).args([what, &count.to_string()]));
    std::fs::read_to_string(log.path()).expect("strace has written it")
}
