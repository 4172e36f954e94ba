#!/usr/bin/env bash
# Everything that should be measured when a GPU is at hand for some minutes, in the order of its value:
#
#   bash scripts/gpu.sh               all parts: checks speed audit 2d 3d_fullres longer covid
#   bash scripts/gpu.sh checks speed  some
#
#   checks      a step of IMA in half precision, compiled or not, and two processes, on phantoms
#   speed       seconds and memory of a training step: plain nnU-Net, IMA, IMA with the paper's attack, textbook IMA
#   audit       cases per hour (D4, 3d_fullres, `standard`), an attack's step beside the bare network, the largest volumes
#   2d          D4 on the paper's schedule: plain nnU-Net, IMA from it, both attacked on slices and as volumes
#   3d_fullres  the same in 3D
#   longer      2d with 2.5 times as long an IMA training
#   covid       classifiers of CT slices, the paper's setting: ce, ima and adv10
#
# DATA      folder of Task04_Hippocampus and SARS-CoV-2-CT (../shared/data)
# OUT       folder of results (.gpu/results); README.md has a section for each part that came to its end
# WORK      folder of data sets and models (.gpu/work); keep it, or trainings begin anew
# DEVICE    cuda
# LIMIT     seconds for each part (3600). One that is stopped goes on where it was with the next call
# TOY=1     generated data and hardly any training, to see whether this script works; with DEVICE=cpu on any machine.
#           OUT and WORK are then in .gpu/toy
#
# Nothing needs to be installed as a command: Python (PYTHON, python3) must find torch, nnU-Net, tyro and monai. A part that is
# finished is not run again (OUT/PART.done). The exit status is 1 if a part has failed, those after it run all the same.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
limit=${LIMIT:-3600}
toy=${TOY:-}
data=$(realpath -m "${DATA:-$here/../shared/data}")
out=$(realpath -m "${OUT:-$here/.gpu${toy:+/toy}/results}")
work=$(realpath -m "${WORK:-$here/.gpu${toy:+/toy}/work}")
known="checks speed audit 2d 3d_fullres longer covid"

fail() {
    printf 'gpu: %s\n' "$*" >&2
    exit 2
}

read -r -a parts <<<"${*:-$known}"
for part in "${parts[@]}"; do
    [[ " $known " == *" $part "* ]] || fail "unknown part $part; known are $known"
done
[[ $limit =~ ^[1-9][0-9]*$ ]] || fail "LIMIT must be a number of seconds, got $limit"
if [[ -z $toy ]]; then
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        fail "PyTorch of $python finds no GPU here; TOY=1 DEVICE=cpu tries this script out without one"
    [[ -d $data ]] || fail "DATA=$data is not there; name the folder of Task04_Hippocampus and SARS-CoV-2-CT"
fi

mkdir -p "$out" "$work"/{raw,preprocessed,results} || fail "OUT=$out or WORK=$work cannot be made"
export nnUNet_raw=$work/raw nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results MPLBACKEND=Agg
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
if [[ -n $toy ]]; then export nnUNet_n_proc_DA=0 nnUNet_def_n_proc=1; fi

tell() { # the sections so far; that of a check that failed, too
    printf '# Measured on a GPU\n\nBy `scripts/gpu.sh`; each part was run once.\n\n'
    for section in $known; do
        if [[ -f $out/$section.md ]]; then cat "$out/$section.md"; fi
    done
}

failed=()
for part in "${parts[@]}"; do
    if [[ -f $out/$part.done ]]; then
        echo "gpu: $part is finished already"
        continue
    fi
    start=$SECONDS
    echo "gpu: $part begins"
    # SIGTERM lets a training finish its epoch and write a checkpoint; only this process hears it, not its workers
    timeout --foreground --kill-after=90 "$limit" "$python" "$here/scripts/gpu_parts.py" "$part" --data "$data" \
        --output "$out" --work "$work" --device "$device" ${toy:+--toy} >"$out/$part.log" 2>&1
    status=$?
    tell >"$out/README.md"
    if ((status == 0)); then
        touch "$out/$part.done"
        echo "gpu: $part is finished after $((SECONDS - start)) s"
    else
        failed+=("$part")
        if ((status == 124 || status == 137)); then
            echo "gpu: $part was stopped after its $limit s; the same command goes on with it" >&2
        else
            tail -n 5 "$out/$part.log" >&2
            echo "gpu: $part has failed with status $status; see $out/$part.log" >&2
        fi
    fi
done
echo "gpu: $SECONDS s in all; results in $out/README.md"
if ((${#failed[@]})); then
    echo "gpu: not finished: ${failed[*]}" >&2
    exit 1
fi
