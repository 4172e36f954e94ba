#!/usr/bin/env bash
# Kills an audit, a training or the training of a classifier (SIGKILL, at a random moment) again and again, starts it anew
# each time, and compares what it leaves in the end, bit by bit, with what one leaves that nobody disturbed:
#
#   bash scripts/kill_test.sh audit 100 --model MODEL_FOLDER --images IMAGES --labels LABELS --attack fgsm --eps 0.3
#   bash scripts/kill_test.sh training 100 DATASET CONFIGURATION FOLD -tr nnUNetTrainerIMA -p PLANS -device cpu
#   bash scripts/kill_test.sh classifier 100 --data IMAGES --method ima --device cpu
#
# The second argument is the number of kills; the others are those of nnunet-ima-attack (with two workers but for the
# undisturbed one), nnUNetv2_train and nnunet-ima-classify fit. SLOWEST=60 is the latest moment of a kill, in seconds after
# a start; what ends before its kill begins again in an empty folder. Plans of a training that start from a model name it
# by its whole path, for results go to a folder of the test's own.
set -euo pipefail
export OMP_NUM_THREADS=1 nnUNet_n_proc_DA=${nnUNet_n_proc_DA:-0}  # the number of threads decides the last digits
python=${PYTHON:-python}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
kind=${1:-} kills=${2:-}
[[ $kind =~ ^(audit|training|classifier)$ && $kills =~ ^[1-9][0-9]*$ ]] || { sed -n '2,14s/^# \?//p' "$0" >&2; exit 2; }
shift 2
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT

command_in() { # FOLDER: what is run, into the array `command`
    mkdir -p "$1"
    case $kind in
        audit) command=("$python" -m nnunet_ima.commands.attack --output "$1") ;;
        training) command=(env "nnUNet_results=$1" "$python" "$here/with_trainers.py" nnunetv2.run.run_training:run_training_entry --c) ;;
        classifier) command=("$python" -m nnunet_ima.commands.classify fit --output "$1") ;;
    esac
}

same() { "$python" "$here/same_end.py" "$kind" "$home/whole" "$home/killed"; }

command_in "$home/whole"
"${command[@]}" "$@" > "$home/log" 2>&1 || { cat "$home/log"; exit 1; }
if [[ $kind == audit ]]; then set -- "$@" --workers 2; fi
done=0 ended=0
while ((done < kills)); do
    command_in "$home/killed"
    "${command[@]}" "$@" > "$home/log" 2>&1 &
    process=$!
    # bash knows whole random numbers up to 32767
    sleep "$("$python" -c "print(${RANDOM} / 32767 * ${SLOWEST:-60})")"
    if kill -KILL "$process" 2> /dev/null; then
        done=$((done + 1))
        wait "$process" 2> /dev/null || true
    else
        wait "$process" || { cat "$home/log"; exit 1; }
        same
        rm -rf "$home/killed"
        ended=$((ended + 1))
    fi
done
command_in "$home/killed"
"${command[@]}" "$@" > "$home/log" 2>&1 || { cat "$home/log"; exit 1; }
same
echo "$done kills, $((ended + 1)) ended, all with the same end"
