#!/usr/bin/env bash
# Runs the tests with the oldest and the newest versions of all that the package builds on, and tries out what would be
# released, each in an environment of its own below .matrix/. Several GB of downloads where PyTorch comes as a CUDA build;
# an hour and more on two cores.
#
#   bash scripts/matrix.sh                     all three
#   bash scripts/matrix.sh oldest              constraints-oldest.txt: the lower bounds in pyproject.toml
#   bash scripts/matrix.sh newest              whatever is newest, and where our own constraints would be behind
#   bash scripts/matrix.sh wheel               sdist and, from it, wheel: built, installed beside nothing else, tried out
#   OLDEST=python3.10 NEWEST=python3.13        interpreters; the wheel's is the newest
#   TORCH="torch==2.13.0" bash scripts/matrix.sh newest wheel    another PyTorch than the newest
#   TESTS="tests/ima tests/attacks"            a part of the tests
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PIP_DISABLE_PIP_VERSION_CHECK=1

declare -A interpreters=([oldest]=${OLDEST:-python3.10} [newest]=${NEWEST:-python3.13})
declare -A constraints=([oldest]="-c constraints-oldest.txt" [newest]="")
kinds=("$@") failed=()
((${#kinds[@]})) || kinds=(oldest newest wheel)

try_wheel() { # a chain, as errexit does not hold where a function's status is looked at
    local home=$PWD/.matrix/wheel
    # shellcheck disable=SC2086  # several words on purpose
    rm -rf "$home" &&
        "${interpreters[newest]}" -m venv "$home" &&
        "$home/bin/python" -m pip install -qq build &&
        "$home/bin/python" -m build --outdir "$home/dist" . &&
        "$home/bin/python" -m pip install -qq ${TORCH:-torch} &&
        "$home/bin/python" -m pip install -qq "$home"/dist/*.whl &&
        cp scripts/try_wheel.py "$home" &&
        (cd "$home" && env -u PYTHONPATH PATH="$home/bin:$PATH" bin/python try_wheel.py)
}

for kind in "${kinds[@]}"; do
    if [[ $kind == wheel ]]; then
        try_wheel || failed+=(wheel)
        continue
    fi
    [[ -n ${interpreters[$kind]:-} ]] || { printf 'matrix: %s is neither oldest, newest nor wheel\n' "$kind" >&2; exit 2; }
    python=.matrix/$kind/bin/python
    [[ -x $python ]] || "${interpreters[$kind]}" -m venv ".matrix/$kind"
    # shellcheck disable=SC2086  # several words on purpose
    "$python" -m pip install -qq ${constraints[$kind]} ${TORCH:-torch}
    # shellcheck disable=SC2086
    "$python" -m pip install -qq --upgrade ${constraints[$kind]} -e '.[dev,docs]'
    printf '== %s: %s\n' "$kind" "$("$python" -c '
from importlib.metadata import version
from platform import python_version
print(python_version(), *(f"{name} {version(name)}" for name in ("torch", "nnunetv2", "numpy", "scipy", "pandas", "monai")))')"
    # shellcheck disable=SC2086
    PATH="$PWD/.matrix/$kind/bin:$PATH" "$python" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder ${TESTS:-} ||
        failed+=("$kind")
done

if ((${#failed[@]})); then
    printf 'matrix: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
