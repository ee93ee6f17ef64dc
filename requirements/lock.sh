#!/bin/sh
# Writes the lock files beside this script from pyproject.toml (`make lock`).
#
# Each file is complete by itself: what a running suite needs and its extra. None names an index, a machine or a build
# of torch, and all hold for every supported Python. Versions that a file already has are kept; LOCK_UPGRADE=1 takes
# the newest ones.
set -eu
cd "$(dirname "$0")/.."

lock() { # lock NAME OPTION...: pyproject.toml's dependencies, and what the options add
    name=$1
    shift
    compile "$name" pyproject.toml "$@"
}

image() { # image COMPONENT: what its image holds and nothing else
    compile "images/$1" --group "$1" --generate-hashes --constraint requirements/run.lock
}

compile() { # compile NAME ARGUMENT...
    name=$1
    shift
    echo "locking $name"
    .venv/bin/python -m uv pip compile "$@" ${LOCK_UPGRADE:+--upgrade} \
        --universal --python-version 3.11 --fork-strategy fewest --no-emit-index-url --no-emit-find-links \
        --no-annotate --custom-compile-command 'make lock' --quiet --output-file "requirements/$name.lock"
}

lock run --extra build --generate-hashes
lock gpu --extra build --extra gpu --generate-hashes --constraint requirements/run.lock
lock dev --extra build --extra dev --constraint requirements/run.lock
lock train --extra build --extra train --constraint requirements/dev.lock
lock hf --extra build --extra hf --constraint requirements/train.lock
lock deploy --extra build --extra deploy --constraint requirements/dev.lock
for component in gateway vision sequence language; do
    image "$component"
done
