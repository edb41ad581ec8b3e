#!/usr/bin/env bash
# Pipes a log file of real text into SQLite, kills the process with SIGKILL again and again on the way,
# and checks at the end that every line is there exactly once, in order, byte for byte.
#
#   tests/scripts/pipe-kill.sh [MEGABYTES] [KILLS] [DURABILITY] [DIR]
#
# MEGABYTES   size of the input (default 1000; a check on every change takes 20)
# KILLS       how often (default 10)
# DURABILITY  immediate or periodic:5ms (default)
# DIR         where to work (default: a new directory below $TMPDIR, removed at the end)
# RINGWAL     the program (default: target/release/ringwal of this repository)
# PIPE_ARGS   more options of pipe: with "--segment-len 1MiB --log-bytes-max 4MiB" a small input is still being read
#             when the kills come, as the log holds only a part of it
# TEXTS       files to take text from (default: all text files of this repository and the licenses of the system)
set -euo pipefail

megabytes=${1:-1000}
kills=${2:-10}
durability=${3:-periodic:5ms}
here=$(cd "$(dirname "$0")/../.." && pwd)
ringwal=${RINGWAL:-$here/target/release/ringwal}
if [ -n "${4:-}" ]; then
    work=$4
    mkdir -p "$work"
else
    work=$(mktemp -d "${TMPDIR:-/tmp}/pipe-kill.XXXXXX")
    trap 'rm -rf "$work"' EXIT
fi

fail() {
    echo "pipe-kill: $*" >&2
    exit 1
}

[ -x "$ringwal" ] || fail "$ringwal is missing; build it with: cargo build --release --features cli"
command -v sqlite3 >/dev/null || fail "sqlite3 is missing; install it to check the rows"

# Real text, with the number of the line in front, so that every line is different.
input=$work/input.log
if [ ! -f "$input" ] || [ "$(stat -c %s "$input")" -lt $((megabytes * 1000000)) ]; then
    sources=()
    while IFS= read -r file; do sources+=("$file"); done < <(
        find ${TEXTS:-"$here/src" "$here/Cargo.lock" "$here/LICENSE" /usr/share/common-licenses} -type f 2>/dev/null | sort
    )
    [ ${#sources[@]} -gt 0 ] || fail "no text found; name some files in TEXTS"
    cat "${sources[@]}" | tr -d '\0' > "$work/once.txt"
    # One copy more than needed, cut to whole lines behind the size that was asked for.
    copies=$((megabytes * 1000000 / $(stat -c %s "$work/once.txt") + 1))
    # awk ends before it has read all, so cat may be ended by SIGPIPE.
    { for _ in $(seq "$copies"); do cat "$work/once.txt"; done || true; } |
        awk -v max=$((megabytes * 1000000)) '{ line = NR "\t" $0; bytes += length(line) + 1; print line; if (bytes >= max) exit }' \
            > "$input" || [ -s "$input" ]
    rm -f "$work/once.txt"
fi
lines=$(wc -l < "$input")
bytes=$(stat -c %s "$input")
echo "pipe-kill: $lines lines, $bytes bytes, $kills kills, $durability, in $work"

database=$work/out.db
# In place of the shell that runs it, so that `$!` is the program's own process and not that of a shell around it.
run() {
    exec "$ringwal" pipe --dir "$work/queue" --to "sqlite:$database" --from "$input" --durability "$durability" --quiet ${PIPE_ARGS:-}
}
stored() {
    # Counting the rows of a large table takes long; the progress row has the number of the last line.
    local number
    number=$(sqlite3 -cmd '.timeout 5000' "$database" 'SELECT number FROM ringwal_progress' 2>/dev/null) || true
    echo "${number:-0}"
}

# Kills come when a share of the lines has arrived, so that they fall all over the file; the share is
# blurred, so that no two of them fall at the same point of a batch.
killed=0
while [ "$killed" -lt "$kills" ]; do
    target=$((lines * (killed * 90 + RANDOM % 90) / (kills * 100)))
    (run) 2>"$work/stderr" &
    pid=$!

    while kill -0 "$pid" 2>/dev/null; do
        if [ "$(stored)" -ge "$target" ]; then
            sleep "0.0$((RANDOM % 10))$((RANDOM % 10))"
            break
        fi
        sleep 0.02
    done
    kill -KILL "$pid" 2>/dev/null && hit=yes || hit=no
    code=0
    wait "$pid" 2>/dev/null || code=$?
    if [ "$hit" = no ] || [ "$code" -ne 137 ]; then
        [ "$code" -eq 0 ] || fail "a run failed with exit code $code: $(cat "$work/stderr")"
        [ "$killed" -gt 0 ] || fail "the input was through before the first kill; take more megabytes"
        break
    fi
    killed=$((killed + 1))
    echo "pipe-kill: killed $killed times, $(stored) of $lines lines are stored"
done
begun=$(date +%s.%N)
(run) || fail "the last run ended with exit code $?"
echo "pipe-kill: the last run took $(echo "$(date +%s.%N) $begun" | awk '{ printf "%.1f s", $1 - $2 }')"

rows=$(sqlite3 "$database" 'SELECT count(*) FROM lines')
[ "$rows" -eq "$lines" ] || fail "$rows rows for $lines lines"
# Byte for byte and in order: text and blobs alike, by LSN. (`-ascii`: no quoting, no CRLF.)
sqlite3 -ascii -newline $'\n' "$database" 'SELECT CAST(line AS TEXT) FROM lines ORDER BY lsn' | cmp - "$input" ||
    fail "the rows are not the lines of the input"
echo "pipe-kill: ok: $lines lines exactly once, in order, after $killed kills"
