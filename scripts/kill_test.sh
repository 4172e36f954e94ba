#!/usr/bin/env bash
# Kills an audit with two workers (SIGKILL, the whole process at a random moment) again and again, starts it anew each
# time, and compares its final records, bit by bit, with those of an audit that nobody disturbed.
#
#   bash scripts/kill_test.sh 100 --model MODEL_FOLDER --images IMAGES --labels LABELS --attack fgsm --eps 0.3
#
# The first argument is the number of kills; the others are those of nnunet-ima-attack. SLOWEST=60 is the latest moment
# of a kill, in seconds after a start; an audit that ends before its kill begins again in an empty folder.
set -euo pipefail
export OMP_NUM_THREADS=1  # the undisturbed one has no workers, and the number of threads decides the last digits
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kills=${1:-100}
shift
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
audit=(python -m nnunet_ima.commands.attack "$@")

same() {
    PYTHONPATH="$root/scripts${PYTHONPATH:+:$PYTHONPATH}" python - "$home/whole" "$1" <<'PYTHON'
import sys
from pathlib import Path
from scaling import records
whole, killed = (records(Path(folder)) for folder in sys.argv[1:])
differing = sorted(name for name in {*whole, *killed} if whole.get(name) != killed.get(name))
sys.exit(f"records differ: {', '.join(differing)}" if differing or not whole else 0)
PYTHON
}

"${audit[@]}" --output "$home/whole" > "$home/log" 2>&1 || { cat "$home/log"; exit 1; }
done=0 ended=0
while ((done < kills)); do
    "${audit[@]}" --output "$home/killed" --workers 2 > "$home/log" 2>&1 &
    process=$!
    # bash knows whole random numbers up to 32767
    sleep "$(python -c "print(${RANDOM} / 32767 * ${SLOWEST:-60})")"
    if kill -KILL "$process" 2> /dev/null; then
        done=$((done + 1))
        wait "$process" 2> /dev/null || true
    else
        wait "$process" || { cat "$home/log"; exit 1; }
        same "$home/killed"
        rm -rf "$home/killed"
        ended=$((ended + 1))
    fi
done
"${audit[@]}" --output "$home/killed" --workers 2 > "$home/log" 2>&1 || { cat "$home/log"; exit 1; }
same "$home/killed"
echo "$done kills, $((ended + 1)) audits ended, all with the same records"
