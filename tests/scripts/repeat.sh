#!/usr/bin/env bash
# The whole test suite, again and again, with every core busy beside it: what fails one time in fifty is found
# here and not by whoever changes something next. Ends at the first failure, with its output.
#
#   tests/scripts/repeat.sh ROUNDS [NAME...]
#
# ROUNDS      how often (before a release 100; CI does not run this)
# NAME        only these test programs (`limits`, `push_path`, …; `ringwal` are the unit tests); default all
# BURNERS     busy loops beside the tests (default: one for each core)
# KEEP_GOING  when set, a failure is kept and counted, and the rounds go on
# LIMIT       seconds after which a test program counts as hanging (default 900)
# RELEASE     when set, the programs are built with optimization: a round takes a third of the processor time
# WRAP        words to put before each program: "taskset -c 0", "prlimit --nofile=64"
# LOGS        where outputs are kept (default: a directory below $TMPDIR, removed when all is well)
set -euo pipefail
cd "$(dirname "$0")/../.."

rounds=${1:?usage: tests/scripts/repeat.sh ROUNDS [NAME...]}
shift
burners=${BURNERS:-$(nproc)}
limit=${LIMIT:-900}
profile=()
[[ -n ${RELEASE:-} ]] && profile=(--release)
read -ra wrap <<<"${WRAP:-}"
logs=${LOGS:-$(mktemp -d "${TMPDIR:-/tmp}/repeat.XXXXXX")}
mkdir -p "$logs/bin"

burning=()
finish() {
    ((${#burning[@]})) && kill "${burning[@]}" 2>/dev/null
    rm -rf "$logs/bin"
    if ((failures)); then
        echo "the outputs are in $logs"
    elif [[ -z ${LOGS:-} ]]; then
        rm -rf "$logs"
    fi
}
failures=0 done_rounds=0
trap finish EXIT
trap 'exit 130' INT TERM

# Copies, so that a build in the meantime does not change what runs.
programs=()
while read -r program; do
    name=$(basename "$program")
    short=${name%-*}
    if (($#)) && ! printf '%s\n' "$@" | grep -qx "$short"; then continue; fi
    cp "$program" "$logs/bin/$name"
    programs+=("$name")
done < <(cargo test --locked --all-features "${profile[@]}" --no-run 2>&1 | tee /dev/stderr | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
((${#programs[@]})) || { echo "no test program was built, or none has such a name" >&2; exit 2; }

for ((i = 0; i < burners; i++)); do
    while :; do :; done &
    burning+=($!)
done

started=$SECONDS
for ((round = 1; round <= rounds; round++)); do
    begun=$SECONDS
    for name in "${programs[@]}"; do
        out=$logs/$name.out code=0
        RUST_BACKTRACE=1 timeout --kill-after=5 "$limit" "${wrap[@]}" "$logs/bin/$name" >"$out" 2>&1 </dev/null || code=$?
        ((code)) || continue
        failures=$((failures + 1))
        mv "$out" "$logs/failure-$failures-round-$round-$name.out"
        echo "FAILED in round $round: $name, exit code $code$( ((code == 124)) && echo " (hangs)")"
        if [[ -z ${KEEP_GOING:-} ]]; then
            cat "$logs/failure-$failures-round-$round-$name.out"
            echo "failed in round $round of $rounds"
            exit 1
        fi
    done
    done_rounds=$round
    echo "round $round of $rounds: $((SECONDS - begun)) s, $failures failures so far"
done
echo "$done_rounds rounds of ${#programs[@]} test programs beside $burners burners in $((SECONDS - started)) s: $failures failures"
((failures == 0))
