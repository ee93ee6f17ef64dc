#!/bin/sh
# All stages of `make test` in order, each with its time and its limit; the first one that fails ends the run.
set -u
cd "$(dirname "$0")/.." || exit 1

times=

limited() { # limited LIMIT_S COMMAND...
    shift
    "$@"
}
if timeout --foreground --kill-after=1 9 true 2>/dev/null; then
    limited() { timeout --foreground --kill-after=30 "$@"; }
else
    echo "there is no GNU timeout here: a stage that hangs is not stopped"
fi

stage() { # stage NAME LIMIT_S COMMAND...
    name=$1 limit=$2 started=$(date +%s)
    shift 2
    printf '\n== %s\n' "$name"
    limited "$limit" "$@"
    status=$?
    taken=$(($(date +%s) - started))
    times="$times$(printf '%-12s %4s s' "$name" "$taken")
"
    [ "$status" = 0 ] && return
    [ "$status" = 124 ] && echo "$name was stopped after its limit of $limit s"
    printf '\n%s\nfailed: %s\n' "$times" "$name"
    exit 1
}

python=.venv/bin/python
stage setup 1200 deploy/local/setup dev train
stage lint 300 make lint
stage type 600 make type
stage protos 120 "$python" protos/generate.py --check
# On several cores; the tests of a file, which share what they start, on one of them.
set -- "$python" -m pytest -q -n logical --maxprocesses 4 --dist loadfile
stage unit 600 "$@" tests/unit
stage parity 600 "$@" tests/parity
stage integration 1200 "$python" -m pytest -q tests/integration
stage chaos 1200 "$python" -m pytest -q -m "not long" tests/chaos
printf '\n%sall stages passed\n' "$times"
