#!/usr/bin/env bash
# Makes .venv in the project's folder: PyTorch, this package (editable) and the tools, at the versions in
# constraints.txt. Run again, it does only what has changed.
#
#   PYTHON=python3.12 bash scripts/setup.sh    another interpreter (3.10 or newer)
#   TORCH="torch==2.8.0" bash scripts/setup.sh another PyTorch: whatever `pip install` accepts, a wheel's path included
#
# A PyTorch that is already in .venv is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

step() {
    printf 'setup: [%3d s] %s\n' "$SECONDS" "$*"
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3.10 python3; do
        if is_recent "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    return 1
}

if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a command."
    is_recent "$PYTHON" ||
        fail "PYTHON=$PYTHON is not Python 3.10 or newer ($("$PYTHON" --version 2>&1 | head -n 1))."
    if [[ -x .venv/bin/python && $("$PYTHON" --version) != $(.venv/bin/python --version) ]]; then
        fail ".venv has $(.venv/bin/python --version), PYTHON=$PYTHON is $("$PYTHON" --version). For the latter remove .venv first."
    fi
else
    PYTHON=$(find_python) || fail "no Python 3.10 or newer found. Install one (Debian: apt-get install python3" \
        "python3-venv) or name it: PYTHON=/path/to/python bash scripts/setup.sh"
fi

# The folder belongs to the stamp because a virtual environment does not survive being moved, __init__.py because the
# version stands in it, which audits read from what is installed.
parts=(pyproject.toml constraints.txt nnunet_ima_register.pth nnunet_ima/__init__.py scripts/setup.sh)
stamp=$(cat "${parts[@]}" - <<<"$PWD" | sha256sum)
if [[ -z ${TORCH:-} && -x .venv/bin/python && $(cat .venv/setup.stamp 2>/dev/null) == "$stamp" ]]; then
    exit 0
fi

python=.venv/bin/python
if ! is_recent "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then
    step "virtual environment .venv ($("$PYTHON" --version))"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$PYTHON has no working venv module. On Debian: apt-get install" \
            "python$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    "$PYTHON" -m venv --clear .venv
fi
rm -f .venv/setup.stamp

torch_version() {
    "$python" -c 'from importlib.metadata import version; print(version("torch").split("+")[0])' 2>/dev/null
}

# The constraints go through the environment, as relative paths (pip splits the values at blanks), because pip hands
# these variables on to the environments in which it builds packages.
export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_NO_COMPILE=1  # pip would compile on one core; all of them do it at the end

# PyTorch comes first and by itself: it alone decides between a CPU build (200 MB) and a CUDA build (several GB). Once it
# is there, and held by the constraint below, no later package can make pip exchange it for another one. Where a CPU
# build of the same version is within pip's reach (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL), pip prefers it.
if ! torch_version >/dev/null || [[ -n ${TORCH:-} ]]; then
    step "PyTorch (${TORCH:-$(grep '^torch==' constraints.txt)}); a large download"
    if [[ -n ${TORCH:-} ]]; then
        grep -vE '^torch(vision)?==' constraints.txt >.venv/constraints.txt
        # shellcheck disable=SC2086  # TORCH may hold several words
        PIP_CONSTRAINT=.venv/constraints.txt "$python" -m pip install -qq $TORCH
    else
        "$python" -m pip install -qq torch
    fi
fi
if ! grep -qxF "torch==$(torch_version)" constraints.txt; then
    step "keeping PyTorch $(torch_version) instead of the version in constraints.txt"
    grep -vE '^torch(vision)?==' constraints.txt >.venv/constraints.txt
    printf 'torch==%s\n' "$(torch_version)" >>.venv/constraints.txt
    export PIP_CONSTRAINT=.venv/constraints.txt
fi

step "nnU-Net, this package and the tools"
"$python" -m pip install -qq -e '.[dev,docs]'

step "bytecode"  # without those files that are no Python, such as templates
"$python" -m compileall -qq -j 0 "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true

printf '%s\n' "$stamp" >.venv/setup.stamp
step "done"
