#!/usr/bin/env bash
# The D4 table in results/, from the original archive: plain nnU-Net, IMA started from it, both attacked as in the paper.
# About an hour and a half on two CPU cores. On a GPU, with nnU-Net's own plans and the paper's schedule:
#   CONFIGURATION=2d DEVICE=cuda EPOCHS=50 scripts/reproduce_d4.sh ARCHIVE
# Results go to OUTPUT*, by default reproduced/d4_2d_cpu*. Every part resumes where it was stopped. nnUNet_raw,
# nnUNet_preprocessed and nnUNet_results must be set.
set -euo pipefail

archive=${1:?usage: scripts/reproduce_d4.sh Task04_Hippocampus[.tar]}
configuration=${CONFIGURATION:-2d_cpu}
device=${DEVICE:-cpu}
output=${OUTPUT:-reproduced/d4_$configuration}
: "${nnUNet_raw:?is not set}" "${nnUNet_preprocessed:?is not set}" "${nnUNet_results:?is not set}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="$here/.venv/bin:$PATH"

plain=nnUNetTrainerPlain__nnUNetPlans__$configuration
ima=nnUNetTrainerIMA__nnUNetPlansWarm__$configuration
models=$nnUNet_results/Dataset004_Hippocampus

train() { # trainer, plans
    local folder=$models/${1}__${2}__$configuration/fold_0
    if [[ ! -f $folder/validation/summary.json ]]; then
        local resume=()
        if [[ -f $folder/checkpoint_latest.pth || -f $folder/checkpoint_final.pth ]]; then resume=(--c); fi
        nnUNetv2_train 4 "$configuration" 0 -tr "$1" -p "$2" -device "$device" "${resume[@]}"
    fi
}

if [[ ! -f $nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans.json ]]; then
    nnunet-ima-prepare D4 --source "$archive"
fi
# all as it was when results/ was measured; the defaults have moved since
nnunet-ima-plan -d 4 --name nnUNetPlansWarm --overwrite --set start_from="$plain" beta="${BETA:-0.5}" epochs="${EPOCHS:-35}" \
    steps=7 bisection_tolerance=0.05 margin_key=case average=0
mkdir -p "$(dirname "$output")"
train nnUNetTrainerPlain nnUNetPlans
train nnUNetTrainerIMA nnUNetPlansWarm
python "$here/scripts/paper_protocol.py" --models "plain nnU-Net=$models/$plain" "IMA=$models/$ima" \
    --eps ${EPS:-0 5 10} --reference-elements 2240 --device "$device" --output "$output"
python "$here/scripts/benchmark.py" -d 4 -c "$configuration" --checkpoint "$models/$ima/fold_0/checkpoint_final.pth" \
    --device "$device" --output "${output}_benchmark.json" | tee "${output}_benchmark.md"
