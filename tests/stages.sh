#!/bin/sh
# All stages of `make test`, each with its time and its limit; the first one that fails ends the run.
set -u
cd "$(dirname "$0")/.." || exit 1

times='' beside=''
folder=$(mktemp -d) || exit 1
trap 'kill $(cat "$folder"/*.pid 2>/dev/null) 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

within="timeout --foreground --kill-after=30"
if ! timeout --foreground --kill-after=1 9 true 2>/dev/null; then
    within=''
    echo "there is no GNU timeout here: a stage that hangs is not stopped"
fi

stage() { # stage NAME LIMIT_S COMMAND...
    name=$1 limit=$2 started=$(date +%s)
    shift 2
    # shellcheck disable=SC2086  # it is several words
    [ -z "$within" ] || set -- $within "$limit" "$@"
    printf '\n== %s\n' "$name"
    "$@"
    ended "$name" "$limit" "$?" "$(($(date +%s) - started))"
}

start() { # start NAME LIMIT_S COMMAND...: a stage that takes what the next one leaves of the processors
    name=$1 limit=$2
    shift 2
    # shellcheck disable=SC2086  # it is several words
    [ -z "$within" ] || set -- $within "$limit" "$@"
    echo "$limit" >"$folder/$name.limit"
    (
        started=$(date +%s)
        trap 'kill "$child"' TERM
        nice -n 19 "$@" &
        child=$!
        wait "$child"
        echo "$?" "$(($(date +%s) - started))" >"$folder/$name.end"
        rm -f "$folder/$name.pid"
    ) >"$folder/$name" 2>&1 &
    echo "$!" >"$folder/$name.pid"
    beside="$beside $name"
}

join() { # waits for the stages that were started, and prints what each has said
    wait
    for name in $beside; do
        printf '\n== %s (beside the one before)\n' "$name"
        cat "$folder/$name"
        status=1 taken=0 # if it has left no word
        read -r status taken <"$folder/$name.end"
        ended "$name" "$(cat "$folder/$name.limit")" "$status" "$taken"
    done
    beside=''
}

ended() { # ended NAME LIMIT_S STATUS TAKEN_S
    times="$times$(printf '%-12s %4s s' "$1" "$4")
"
    [ "$3" = 0 ] && return
    [ "$3" = 124 ] && echo "$1 was stopped after its limit of $2 s"
    printf '\n%s\nfailed: %s\n' "$times" "$1"
    exit 1
}

python=.venv/bin/python
stage setup 1200 deploy/local/setup dev train
stage lint 300 make lint
stage protos 120 "$python" protos/generate.py --check
# On several cores; the tests of a file, which share what they start, on one of them.
set -- "$python" -m pytest -q -n logical --maxprocesses 4 --dist loadfile
stage unit 600 "$@" tests/unit
# Half of the time that integration takes is spent on waiting for processes to start and end; these two only compute.
start type 1200 make type
start parity 1200 "$@" tests/parity
stage integration 1200 "$python" -m pytest -q tests/integration
join
stage chaos 1200 "$python" -m pytest -q -m "not long" tests/chaos
printf '\n%sall stages passed\n' "$times"
