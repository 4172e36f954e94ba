#!/usr/bin/env bash
# Sets up .venv, then trains a plain and an IMA model on phantom data and compares them under noise.
# Arguments go to the demo: scripts/demo.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)  # paths in the arguments are the caller's: stay where we are

bash "$root/scripts/setup.sh"
export PATH="$root/.venv/bin:$PATH"
exec nnunet-ima-demo "$@"
