#!/usr/bin/env bash
# A margin for each slice against one for each case: IMA trainings from the same plain model on the same batches, attacked
# alike. On data that scripts/reproduce_d4.sh or nnunet-ima-prepare has prepared; what is trained already is not trained again.
#   FOLDS="0 1" SEEDS="0 1 2" bash scripts/compare_margin_keys.sh    more folds and seeds
set -euo pipefail

configuration=${CONFIGURATION:-2d_cpu}
device=${DEVICE:-cpu}
output=${OUTPUT:-reproduced/d4_${configuration}_margin_keys}
: "${nnUNet_preprocessed:?is not set}" "${nnUNet_results:?is not set}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="$here/.venv/bin:$PATH"
models=$nnUNet_results/Dataset004_Hippocampus
mkdir -p "$(dirname "$output")"
plain=nnUNetTrainerPlain__nnUNetPlans__$configuration

train() { # trainer, plans, fold
    local folder=$models/${1}__${2}__$configuration/fold_$3 resume=()
    if [[ ! -f $folder/checkpoint_final.pth ]]; then
        if [[ -f $folder/checkpoint_latest.pth ]]; then resume=(--c); fi
        nnUNetv2_train 4 "$configuration" "$3" -tr "$1" -p "$2" -device "$device" "${resume[@]}"
    fi
}

for fold in ${FOLDS:-0}; do
    train nnUNetTrainerPlain nnUNetPlans "$fold"
    named=("plain nnU-Net=$models/$plain")
    for seed in ${SEEDS:-0 1}; do
        for key in case sample; do
            plans=nnUNetPlansMarginOf${key^}S$seed
            nnunet-ima-plan -d 4 --name "$plans" --overwrite --set margin_key=$key seed="$seed" start_from="$plain" \
                beta="${BETA:-0.5}" epochs="${EPOCHS:-35}" steps=7 bisection_tolerance=0.05
            train nnUNetTrainerIMA "$plans" "$fold"
            named+=("a margin for each $key, seed $seed=$models/nnUNetTrainerIMA__${plans}__$configuration")
        done
    done
    python "$here/scripts/paper_protocol.py" --models "${named[@]}" --eps 0 5 10 --every "${EVERY:-6}" --fold "$fold" \
        --reference-elements 2240 --device "$device" --output "${output}_fold_$fold"
done
