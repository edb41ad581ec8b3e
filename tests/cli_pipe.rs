//! `ringwal pipe`: inputs, sinks, and what is refused.

#[path = "cli/mod.rs"]
mod cli;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cli::{Place, assert_rows_are_lines, finish, real_text, until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

#[test]
fn lines_of_any_bytes_reach_sqlite_and_a_second_run_goes_on() {
    let place = Place::new();
    let mut input = b"one\n\n\xff\xfe\nwith \0 zero\nlast".to_vec();
    place.write("in", &input);
    let args = ["--from", "in", "--to", "sqlite:out.db"];
    let done = place.pipe(&args, b"").expect(0);
    assert!(done.err.contains("exactly once") && done.err.contains("5 lines"), "{done:?}");
    assert_rows_are_lines(&place.rows("out.db"), &input);
    let database = rusqlite::Connection::open(place.path("out.db")).unwrap();
    let types: Vec<String> = database
        .prepare("SELECT typeof(line) FROM lines ORDER BY lsn")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(types, ["text", "text", "blob", "blob", "text"]);
    // The file has grown: its last line had no newline, so what follows is a line of its own.
    input.extend(b"\nmore\n");
    place.write("in", &input);
    place.pipe(&args, b"").expect(0);
    let rows = place.rows("out.db");
    assert_eq!(rows.len(), 7);
    assert_eq!((&rows[5][..], &rows[6][..]), (&b""[..], &b"more"[..]));
}

#[test]
fn sqlite_in_the_current_directory_is_the_default_and_every_durability_delivers() {
    let input = real_text(300_000);
    for durability in ["immediate", "periodic:1ms", "spill", "memory"] {
        let place = Place::new();
        place.write("in", &input);
        for _ in 0..2 {
            let done = place.pipe(&["--from", "in", "--durability", durability], b"").expect(0);
            let promised = if durability.starts_with(['s', 'm']) { "may lose" } else { "exactly once" };
            assert!(done.err.contains(promised), "{durability}: {done:?}");
        }
        assert_rows_are_lines(&place.rows("ringwal.db"), &input);
        // Another input under another durability: rows go on above those that are there.
        place.pipe(&["--durability", "immediate"], b"and one\n").expect(0);
        assert_eq!(place.rows("ringwal.db").last().unwrap(), b"and one", "{durability}");
    }
}

#[test]
fn the_other_sinks_get_every_line_in_order() {
    let input = real_text(400_000);
    let text = String::from_utf8_lossy(&input).into_owned();
    let place = Place::new();
    place.pipe(&["--to", "file:out"], &input).expect(0);
    assert_eq!(place.read("out"), text);
    assert_eq!(place.pipe(&["--to", "stdout", "--quiet"], &input).expect(0).out, text);
    place.pipe(&["--to", "exec:cat >> ran", "--batch-len", "500"], &input).expect(0);
    assert_eq!(place.read("ran"), text);
    let done = place.pipe(&["--to", "null", "--ack"], &input).expect(0);
    let lines = input.iter().filter(|byte| **byte == b'\n').count();
    assert!(done.out.lines().map(|line| line.parse::<usize>().unwrap()).eq(1..=lines), "every number once");
}

#[test]
fn the_last_line_keeps_its_missing_newline_and_the_next_run_does_not_glue_to_it() {
    let place = Place::new();
    place.pipe(&["--to", "file:out"], b"a\nb").expect(0);
    assert_eq!(place.read("out"), "a\nb");
    place.pipe(&["--to", "file:out"], b"c\n").expect(0);
    assert_eq!(place.read("out"), "a\nb\nc\n");
}

#[test]
fn a_command_that_refuses_gets_it_again_and_then_lines_are_parked() {
    let place = Place::new();
    // Both in one batch, however late the second one comes.
    let args = ["--to", "exec:echo tried >> tries; exit 3", "--retry-max", "3", "--linger", "60s"];
    let done = place.pipe(&args, b"a\nb\n").expect(3);
    assert!(done.err.contains("2 parked"), "{done:?}");
    assert_eq!(place.read("tries").lines().count(), 3);
    place.pipe(&["--to", "exec:exit 65"], b"c\n").expect(3);
    let list = place.run(&["parked", "list", "q"]).expect(0).out;
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.contains("exit code 3") && list.contains("exit code 65"), "{list}");
    assert_eq!(place.json(&["inspect", "--json", "q"])["parked"], 3);
    place.run(&["parked", "discard", "q", "--lsn", "1"]).expect(0);
    place.run(&["parked", "discard", "q", "--lsn", "99"]).refused(2, &["no parked line", "parked list"]);
    place.run(&["parked", "redeliver", "--dir", "q", "--to", "file:out", "--all"]).expect(0);
    assert_eq!(place.read("out"), "b\nc\n");
    assert_eq!(place.run(&["dump", "--parked", "q"]).expect(0).out, "");
}

#[test]
fn redelivered_lines_do_not_move_the_place_where_a_file_is_read_on() {
    let place = Place::new();
    place.write("in", b"1\n2\n3\n");
    place.pipe(&["--from", "in", "--to", "exec:exit 65"], b"").expect(3);
    place.run(&["parked", "redeliver", "--dir", "q", "--to", "file:out", "--lsn", "1"]).expect(3);
    place.pipe(&["--to", "file:out"], b"from stdin\n").expect(3);
    place.write("in", b"1\n2\n3\n4\n");
    place.pipe(&["--from", "in", "--to", "file:out"], b"").expect(3);
    assert_eq!(place.read("out"), "1\nfrom stdin\n4\n");
}

/// It said "see `ringwal parked list`", where nothing was, and the next run read on behind them.
#[test]
fn what_was_parked_in_memory_is_not_called_kept_and_is_read_again() {
    let place = Place::new();
    place.write("in", b"a\nb\n");
    let pipe = |more: &[&str]| place.pipe(&[&["--from", "in", "--durability", "memory"], more].concat(), b"");
    let done = pipe(&["--to", "exec:exit 65"]).expect(3);
    assert!(done.err.contains("2 were not kept") && done.err.contains("read again by the next run"), "{done:?}");
    assert!(!done.err.contains("parked list"), "{done:?}");
    pipe(&["--to", "file:out"]).expect(0);
    assert_eq!(place.read("out"), "a\nb\n");
    // What still waited at the end is no more kept than that.
    place.write("in", b"a\nb\nc\n");
    let done = pipe(&["--to", "exec:exit 1", "--retry-max", "0", "--drain-within", "100ms"]).expect(3);
    assert!(done.err.contains("1 were not kept"), "{done:?}");
    pipe(&["--to", "file:out"]).expect(0);
    assert_eq!(place.read("out"), "a\nb\nc\n");
    let done = place.pipe(&["--durability", "memory", "--to", "exec:exit 65"], b"d\n").expect(3);
    assert!(done.err.contains("1 were not kept") && done.err.contains("sent again"), "{done:?}");
}

/// A line is parked, and those behind it wait in a log that is damaged. Gives the number of these.
fn parked_before_damage(place: &Place) -> usize {
    // So few that one segment holds them: an older one is not read when the log is opened.
    let input = [b"refused\n", &real_text(200_000)[..]].concat();
    let to = "exec:grep -q '^refused' && exit 65; exit 1";
    let parks = |within: &str| {
        let args = ["--to", to, "--batch-len", "1", "--retry-max", "0", "--drain-within", within, "--quiet"];
        place.pipe(&args, &input).expect(3);
        let is_parked = place.json(&["inspect", "--json", "q"])["parked"] == 1;
        if !is_parked {
            std::fs::remove_dir_all(place.path("q")).unwrap();
        }
        is_parked
    };
    // A busy machine may need more than a second to start the command.
    assert!(["1s", "8s", "60s"].into_iter().any(parks), "the line is not parked");
    let file = File::options().write(true).open(place.path("q/seg-00000000.rwal")).unwrap();
    // Two whole blocks: how frames lie, and where padding does, is the machine's.
    file.write_all_at(&[0xdd; 8192], 98_304).unwrap();
    input.iter().filter(|byte| **byte == b'\n').count() - 1
}

/// They asked for the option that they had been given, and `discard` did not have it.
#[test]
fn parked_lines_before_a_damaged_log_are_redelivered_and_discarded_as_on_corruption_says() {
    let quarantine = &["--on-corruption", "quarantine"][..];
    let place = Place::new();
    let lines = parked_before_damage(&place);
    let args = &["parked", "redeliver", "--dir", "q", "--to", "file:out", "--all"][..];
    place.run(args).refused(1, &["seg-00000000.rwal", "--on-corruption quarantine"]);
    let done = place.run(&[args, quarantine].concat()).expect(0);
    assert!(done.err.contains("have been given up") && done.err.contains("1 parked lines put back"), "{done:?}");
    let out = place.read("out");
    assert_eq!(out.lines().last(), Some("refused"));
    assert!(out.lines().count() <= lines, "some were damaged");

    let place = Place::new();
    parked_before_damage(&place);
    let args = &["parked", "discard", "q", "--all"][..];
    place.run(args).refused(1, &["seg-00000000.rwal", "--on-corruption quarantine"]);
    let done = place.run(&[args, quarantine].concat()).expect(0);
    assert!(done.err.contains("have been given up") && done.err.contains("1 parked lines discarded"), "{done:?}");
    assert_eq!(place.run(&["parked", "list", "q"]).expect(0).out, "");
}

/// They were refused at once.
#[test]
fn a_directory_in_use_is_waited_for_by_redeliver_and_discard() {
    for (args, left) in [
        (&["parked", "redeliver", "--dir", "q", "--to", "file:out", "--all"][..], "a\n"),
        (&["parked", "discard", "q", "--all"], ""),
    ] {
        let place = Place::new();
        place.pipe(&["--to", "exec:exit 65"], b"a\n").expect(3);
        place.write("out", b"");
        let mut holder = place.start_pipe(&["--to", "null"]);
        let mut told = BufReader::new(holder.stderr.take().unwrap());
        told.read_line(&mut String::new()).unwrap();
        place.run(&[args, &["--lock-wait", "50ms"]].concat()).refused(1, &["q is open in process"]);
        let waiting = place.command(&[args, &["--lock-wait", "60s"]].concat()).spawn().unwrap();
        // So long that one which does not wait has been refused.
        std::thread::sleep(Duration::from_millis(300));
        holder.stderr = Some(told.into_inner());
        finish(holder, b"").expect(3);
        finish(waiting, b"").expect(0);
        assert_eq!(place.read("out"), left);
        assert_eq!(place.run(&["parked", "list", "q"]).expect(0).out, "");
    }
}

/// It was refused for want of `--log-bytes-max`, which `discard` does not have.
#[test]
fn a_parked_line_is_discarded_whatever_the_length_of_the_segments() {
    let place = Place::new();
    // With `spill` none of them is made, as all goes through memory.
    let long = ["--segment-len", "1GiB", "--log-bytes-max", "4GiB", "--durability", "spill"];
    let pipe = ["pipe", "--dir", "q", "--to", "exec:exit 65"];
    place.run_with(&[&pipe[..], &long].concat(), b"a\n").expect(3);
    assert_eq!(place.json(&["inspect", "q", "--json"])["meta"]["segment_len"], 1 << 30);
    place.run(&["parked", "discard", "q", "--all"]).expect(0);
    assert_eq!(place.run(&["parked", "list", "q"]).expect(0).out, "");
}

/// Starts `pipe` so that a limit of the length of files is an error, as a full disk is, and waits until it is open.
fn start_pipe_that_may_be_limited(place: &Place, args: &[&str]) -> Child {
    let plain = place.command(&[&["pipe", "--dir", "q", "--segment-len", "1MiB"], args].concat());
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    command.current_dir(place.0.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    until("the queue is open", || place.path("q/seg-00000000.rwal").exists());
    child
}

/// Lines that another program had appended were cut off with the batch; what it had truncated was filled with zeros.
#[test]
fn a_batch_that_fails_takes_nothing_from_a_file_that_others_change() {
    const LIMIT: u64 = 2 << 20;
    let long = b"1234567\n".repeat(LIMIT as usize / 4);
    let short = &long[..LIMIT as usize - 16];
    let append: fn(&File) = |mut file| file.write_all(b"other\n").unwrap();
    let truncate: fn(&File) = |file| file.set_len(LIMIT - 16).unwrap();
    let appended = [short, b"other\n"].concat();
    for (before, others, after) in [(short, append, &appended[..]), (&long[..], truncate, short)] {
        let place = Place::new();
        place.write("out", before);
        let child = start_pipe_that_may_be_limited(&place, &["--to", "file:out", "--retry-max", "3"]);
        others(&File::options().append(true).open(place.path("out")).unwrap());
        let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
        prlimit(Some(Pid::from_child(&child)), Resource::Fsize, limit).unwrap();
        let line = b"there is room for a part of this line\n";
        let done = finish(child, line).expect(3);
        assert!(done.err.contains("1 parked"), "{done:?}");
        let read = || std::fs::read(place.path("out")).unwrap();
        assert!(read() == after, "{} bytes, not {}", read().len(), after.len());
        place.run(&["parked", "redeliver", "--dir", "q", "--to", "file:out", "--all"]).expect(0);
        assert!(read() == [after, line].concat());
    }
}

#[test]
fn another_or_a_changed_input_is_refused_with_a_remedy() {
    let place = Place::new();
    place.write("in", b"one\ntwo\n");
    let args = ["--from", "in", "--to", "file:out"];
    place.pipe(&args, b"").expect(0);
    place.write("in", b"one\ntwO\nthree\n");
    place.pipe(&args, b"").refused(2, &["in is not the file", "--restart"]);
    place.write("in", b"one\n");
    place.pipe(&args, b"").refused(2, &["in is not the file", "--restart"]);
    place.write("other", b"one\ntwo\nthree\n");
    place.pipe(&["--from", "other", "--to", "file:out"], b"").refused(2, &["inode", "--restart"]);
    assert_eq!(place.read("out"), "one\ntwo\n");
    place.pipe(&["--from", "other", "--to", "file:out", "--restart"], b"").expect(0);
    assert_eq!(place.read("out"), "one\ntwo\none\ntwo\nthree\n");
}

#[test]
fn beginning_anew_is_refused_while_lines_wait() {
    let place = Place::new();
    place.write("in", b"one\n");
    place.pipe(&["--from", "in", "--to", "exec:exit 1", "--retry-max", "0", "--drain-within", "100ms"], b"").expect(3);
    place
        .pipe(&["--from", "in", "--to", "null", "--restart"], b"")
        .refused(2, &["--restart", "1 undelivered", "</dev/null"]);
    place.pipe(&["--to", "null", "--durability", "memory"], b"").refused(2, &["memory", "1 undelivered"]);
    place.pipe(&["--to", "file:out"], b"").expect(0);
    assert_eq!(place.read("out"), "one\n");
}

#[test]
fn a_database_of_another_directory_is_refused() {
    let place = Place::new();
    place.pipe(&["--to", "sqlite:out.db"], b"one\n").expect(0);
    let other = ["pipe", "--dir", "q2", "--segment-len", "1MiB", "--to", "sqlite:out.db"];
    place.run_with(&other, b"two\n").refused(2, &["another queue directory"]);
    assert_eq!(place.count("out.db"), 1);
}

/// SQLite itself does not wait where a reader becomes a writer: a run behind a killed one ended with "database is
/// locked", as somebody was just reading.
#[test]
fn a_database_that_another_program_holds_is_waited_for() {
    let place = Place::new();
    let other = rusqlite::Connection::open(place.path("out.db")).unwrap();
    other.execute_batch("CREATE TABLE theirs (n); BEGIN IMMEDIATE; INSERT INTO theirs VALUES (1)").unwrap();
    let mut child = place.start_pipe(&["--to", "sqlite:out.db"]);
    let is_database = |fd: std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|to| to == place.path("out.db"));
    let fds = format!("/proc/{}/fd", child.id());
    until("it is at the database or has ended", || {
        std::fs::read_dir(&fds).is_ok_and(|fds| fds.flatten().any(is_database)) || child.try_wait().unwrap().is_some()
    });
    std::thread::sleep(Duration::from_millis(300));
    other.execute_batch("COMMIT").unwrap();
    finish(child, b"one\n").expect(0);
    assert_eq!(place.rows("out.db"), [b"one"]);
}

#[test]
fn a_line_that_is_too_long_is_refused_before_any_of_it_is_written() {
    let place = Place::new();
    place.write("in", b"ok\n123456789\nnext\n");
    let args = ["--from", "in", "--to", "file:out"];
    let short = [&args[..], &["--entry-len-max", "8"]].concat();
    place.pipe(&short, b"").refused(1, &["line 2", "offset 3", "--entry-len-max"]);
    assert_eq!(place.read("out"), "ok\n");
    place.pipe(&args, b"").expect(0);
    assert_eq!(place.read("out"), "ok\n123456789\nnext\n");
}

#[test]
fn a_directory_in_use_is_refused() {
    let place = Place::new();
    let child = place.start_pipe(&["--to", "null"]);
    until("the queue is open", || place.path("q/seg-00000000.rwal").exists());
    place
        .pipe(&["--to", "null", "--lock-wait", "50ms"], b"")
        .refused(1, &["q is open in process", "another directory"]);
    finish(child, b"").expect(0);
}

#[test]
fn wrong_arguments_are_named() {
    let place = Place::new();
    place.write("file", b"");
    for (args, parts) in [
        (&["pipe", "--dir", "file"][..], &["file", "directory"][..]),
        (&["pipe", "--dir", "q", "--from", "missing"], &["missing"]),
        (&["pipe", "--dir", "q", "--segment-len", "5"], &["--segment-len", "384KiB to 4GiB"]),
        (&["pipe", "--dir", "q", "--batch-len", "0"], &["--batch-len", "1 to 1000000"]),
        (&["pipe", "--dir", "q", "--entry-len-max", "0"], &["--entry-len-max", "1 to"]),
        (&["pipe", "--dir", "q", "--to", "stdout", "--ack"], &["--ack"]),
        (&["pipe", "--dir", "q", "--durability", "memory", "--ack"], &["--ack"]),
        (&["pipe", "--dir", "q", "--durability", "sometimes"], &["--durability", "periodic"]),
        (&["pipe", "--dir", "q", "--to", "carrier-pigeon"], &["--to", "sqlite:FILE"]),
        (&["pipe", "--dir", "q", "--restart"], &["--restart", "--from"]),
        (&["bench", "--seconds", "0"], &["--seconds", "1..=60"]),
    ] {
        place.run(args).refused(2, parts);
    }
}

#[test]
fn a_file_of_settings_gives_the_options_that_the_command_line_does_not() {
    let place = Place::new();
    let text = "segment_len = '1MiB'\nlog_bytes_max = '16MiB'\nentry_len_max = 20\non_corruption = 'cut_tail'\n\
                lock_wait = '1h'\ndurability = 'periodic:1ms'\nretry.attempts_max = 'none'\n";
    place.write("queue.toml", text.as_bytes());
    let pipe = |dir: &str, more: &[&str], input: &[u8]| {
        place.run_with(&[&["pipe", "--dir", dir, "--to", "null", "--config", "queue.toml"], more].concat(), input)
    };
    pipe("a", &[], b"twenty bytes at most\n").expect(0);
    assert_eq!(place.json(&["inspect", "a", "--json"])["meta"]["segment_len"], 1 << 20);
    pipe("a", &[], b"one byte more than that\n").refused(1, &["20"]);
    pipe("b", &["--segment-len", "2MiB", "--entry-len-max=30"], b"one byte more than that\n").expect(0);
    assert_eq!(place.json(&["inspect", "b", "--json"])["meta"]["segment_len"], 2 << 20);
    for (text, parts) in [
        ("\nrings = 2", &["queue.toml, line 2: pipe has no option for rings", "batch_len_max"][..]),
        ("lingre = '5ms'", &["queue.toml, line 1: there is no setting lingre; did you mean linger?"]),
        ("batch_len_max = 0", &["queue.toml, line 1: batch_len_max is 0"]),
        ("linger =", &["queue.toml, line 1: "]),
    ] {
        place.write("queue.toml", text.as_bytes());
        pipe("c", &[], b"").refused(2, parts);
    }
    place.run(&["pipe", "--dir", "c", "--config", "none.toml"]).refused(2, &["cannot read none.toml"]);
    assert!(!place.path("c").exists());
}

#[test]
fn a_closed_standard_output_ends_it_without_a_word() {
    let place = Place::new();
    let mut child = place.start_pipe(&["--to", "stdout", "--quiet"]);
    drop(child.stdout.take());
    child.stdout = Some(Command::new("true").stdout(Stdio::piped()).spawn().unwrap().stdout.take().unwrap());
    let done = finish(child, &real_text(300_000)).expect(141);
    assert_eq!(done.err, "");
}

#[cfg(feature = "serve")]
#[test]
fn what_it_does_is_served_while_it_runs() {
    use std::io::Read;

    let place = Place::new();
    place.pipe(&["--to", "null", "--serve", "nowhere"], b"").refused(2, &["--serve nowhere", "HOST:PORT"]);
    let mut child = place.start_pipe(&["--to", "null", "--serve", "127.0.0.1:0"]);
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let address = loop {
        let mut line = String::new();
        assert!(told.read_line(&mut line).unwrap() > 0, "it never said where it serves");
        if let Some((_, rest)) = line.split_once("serves http://") {
            break rest.split('/').next().unwrap().to_owned();
        }
    };
    child.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").unwrap();
    let get = || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    until("both lines are counted", || {
        let answer = get();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer.lines().any(|line| line.starts_with("ringwal_delivered_total{") && line.ends_with(" 2"))
    });
    drop(child.stdin.take());
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
}
