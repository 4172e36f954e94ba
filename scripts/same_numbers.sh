#!/usr/bin/env bash
# Shows that a change has moved no figure: trains, attacks and audits with the code of a git revision and with the working
# tree, through the commands that a user has, on one thread with the same seeds, and compares all figures to 1e-6.
#   bash scripts/same_numbers.sh [REF]           REF is the revision before the change; HEAD~1 if not given
#   OUTPUT=/tmp/same bash scripts/same_numbers.sh  keeps what both have made
#   AUDIT_MODEL=RESULTS/Dataset004_Hippocampus/nnUNetTrainerIMA__nnUNetPlans__2d_cpu bash scripts/same_numbers.sh
#                                                audits one case with that model, too; needs nnU-Net's folders to be set
# The exit status is 0 if all figures are the same, 1 if one is not, 2 if something else went wrong. About five minutes of
# one core.
set -euo pipefail

ref=${1:-HEAD~1}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${VIRTUAL_ENV:-$here/.venv}/bin
if [[ ! -x $bin/nnunet-ima-plan ]]; then bin=$(dirname "$(command -v nnunet-ima-plan)"); fi
git -C "$here" rev-parse --quiet --verify "$ref^{commit}" >/dev/null || {
    echo "same_numbers: $ref is no revision of this repository" >&2
    exit 2
}
output=${OUTPUT:-$(mktemp -d)}
if [[ -z ${OUTPUT:-} ]]; then trap 'rm -rf "$output"' EXIT; fi
if [[ -e $output/before || -e $output/after ]]; then
    echo "same_numbers: OUTPUT=$output holds an earlier comparison; choose another folder" >&2
    exit 2
fi
audit_folders=("nnUNet_raw=${nnUNet_raw:-}" "nnUNet_preprocessed=${nnUNet_preprocessed:-}" "nnUNet_results=${nnUNet_results:-}")
export nnUNet_n_proc_DA=0 nnUNet_def_n_proc=1 nnUNet_compile=f MPLBACKEND=Agg PYTHONHASHSEED=0

step() { # name, program, arguments
    local name=$1 start=$SECONDS
    shift
    "$bin/python" "$output/one_thread.py" "$@" >"$home/$name.log" 2>&1 || {
        tail -n 20 "$home/$name.log" >&2
        echo "same_numbers: $name failed with the code of $side" >&2
        exit 2
    }
    printf '%-6s %-10s %3d s\n' "$side" "$name" "$((SECONDS - start))" >&2
}

measure() { # before or after; its code lies in $output/$side/code
    local side=$1 home=$output/$1
    local code=$home/code models=$home/results/Dataset999_Phantom
    local plain=$models/nnUNetTrainerPlain__nnUNetPlansPlain__2d_cpu ima=$models/nnUNetTrainerIMA__nnUNetPlansIMA__2d_cpu
    local short=(epochs=2 iterations_per_epoch=8 snapshot_interval=1 robust_interval=1 robust_steps=3 eps_max=0.2
        delta=0.1 tau=0.05)
    export PYTHONPATH=$code
    export nnUNet_raw=$home/raw nnUNet_preprocessed=$home/preprocessed nnUNet_results=$home/results
    mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"

    step prepare "$bin/nnunet-ima-prepare" phantom --cases 5 --shape 24 24 12 --processes 1
    step plan "$bin/nnunet-ima-plan" -d 999 --name nnUNetPlansPlain --set "${short[@]}"
    step plan_ima "$bin/nnunet-ima-plan" -d 999 --name nnUNetPlansIMA --set "${short[@]}" beta=0.7 \
        pgd_steps=7 bisection_tolerance=0.05 \
        start_from=nnUNetTrainerPlain__nnUNetPlansPlain__2d_cpu
    step plain "$bin/nnUNetv2_train" 999 2d_cpu 0 -tr nnUNetTrainerPlain -p nnUNetPlansPlain -device cpu
    step ima "$bin/nnUNetv2_train" 999 2d_cpu 0 -tr nnUNetTrainerIMA -p nnUNetPlansIMA -device cpu
    step paper "$code/scripts/paper_protocol.py" --models "plain=$plain" "ima=$ima" --eps 0 0.1 --steps 5 \
        --device cpu --output "$home/paper"
    step audit "$bin/nnunet-ima-attack" --model "$ima" --attack standard --eps 0.05 --eps-unit rms --steps 3 --limit 1 \
        --check-cases 1 --no-tta --dice-threshold 0.15 --device cpu --output "$home/audit"
    step covid "$bin/nnunet-ima-covid" compare --data "$output/images" --methods ce ima adv trades mma fat gairat ddn \
        --eps 0.1 --limit 2 --device cpu --output "$home/covid" --set size=32 epochs=2 batch_size=8 eps=0.3 \
        delta=0.15 learning_rate=0.01 robust_images=8 robust_steps=3 robust_eps=0.1 snapshot_interval=2
    if [[ -n ${AUDIT_MODEL:-} ]]; then
        export "${audit_folders[@]}"
        step audit_real "$bin/nnunet-ima-attack" --model "$AUDIT_MODEL" --attack standard --eps 2 --steps 3 --limit 1 \
            --check-cases 0 --no-tta --no-margins --device cpu --output "$home/audit_real"
    fi
}

# Copies, so that an edit meanwhile changes nothing.
mkdir -p "$output/before/code" "$output/after/code"
cp "$here/scripts/one_thread.py" "$output"
git -C "$here" archive "$ref" | tar -x -C "$output/before/code"
(cd "$here" && git ls-files -z --cached --others --exclude-standard | xargs -0 ls -d 2>/dev/null | tar -c -T -) |
    tar -x -C "$output/after/code"
"$bin/python" "$here/scripts/same_numbers.py" prepare "$output"
measure before
measure after
"$bin/python" "$here/scripts/same_numbers.py" compare "$output"
