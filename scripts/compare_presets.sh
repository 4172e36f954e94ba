#!/usr/bin/env bash
# What the cheap attack of the default settings loses against the paper's 20 steps: two short IMA trainings from the same
# plain model, on the same batches, attacked alike. Needs what scripts/reproduce_d4.sh has prepared and trained.
set -euo pipefail

configuration=${CONFIGURATION:-2d_cpu}
device=${DEVICE:-cpu}
output=${OUTPUT:-reproduced/d4_${configuration}_presets}
: "${nnUNet_preprocessed:?is not set}" "${nnUNet_results:?is not set}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="$here/.venv/bin:$PATH"
models=$nnUNet_results/Dataset004_Hippocampus
mkdir -p "$(dirname "$output")"
named=()
for preset in default paper; do
    plans=nnUNetPlansShort$preset
    nnunet-ima-plan -d 4 --name "$plans" --overwrite --set preset=$preset epochs="${EPOCHS:-4}" beta="${BETA:-0.4}" \
        start_from="nnUNetTrainerPlain__nnUNetPlans__$configuration"
    folder=nnUNetTrainerIMA__${plans}__$configuration
    if [[ ! -f $models/$folder/fold_0/checkpoint_final.pth ]]; then
        nnUNetv2_train 4 "$configuration" 0 -tr nnUNetTrainerIMA -p "$plans" -device "$device"
    fi
    named+=("$preset=$models/$folder")
done
python "$here/scripts/paper_protocol.py" --models "${named[@]}" --eps 0 5 10 --every "${EVERY:-8}" \
    --reference-elements 2240 --device "$device" --output "$output"
