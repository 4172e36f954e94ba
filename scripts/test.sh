#!/usr/bin/env bash
# Sets up .venv, then runs everything a change has to pass. Arguments go to pytest: scripts/test.sh tests/ima -k margin
# Tests run in two processes, each file in one of them, as the tests of some files build on each other and on what was
# trained for them all; -n 0 brings them back into one process, for a debugger.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/browser.sh & browser=$!
bash scripts/setup.sh
wait "$browser" || true  # without a browser, the tests that open a dossier in one skip and say so
export PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # for the commands that tests start; see one_thread in tests/conftest.py

run() {
    local start=$SECONDS
    printf '== %s\n' "$*"
    "$@" || return
    printf '== %s: %d s\n\n' "$1" "$((SECONDS - start))"
}

run ruff check .
run ruff format --check .
run lint-imports --no-cache
types=$(mktemp)
trap 'rm -f "$types"' EXIT
mypy > "$types" 2>&1 &  # on one core; it is through long before the tests, which the others begin with
checked=$!
run python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 "$@" || tested=no
wait "$checked" || typed=no
printf '== mypy\n'
cat "$types"
[[ -z ${tested:-}${typed:-} ]] || exit 1
printf 'All passed in %d s.\n' "$SECONDS"
