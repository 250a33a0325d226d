#!/usr/bin/env bash
# Runs every stage of dist_jax on a rendered data set: bash scripts/quickstart.sh [--short] [--output DIR]
#
#   --output DIR  output folder (default: demo); finished stages are skipped
#   --short       the same stages with few videos and steps: a functional check, with accuracy near chance
#
# Requires bash and Python 3.11 to 3.13 (PYTHON=... selects one).
# Takes about ten minutes on two CPU cores after the installation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/stages.sh
parse_arguments "$@"

videos=() clip=() training=()
if "$short"; then
  output="${output:-demo/short}"
  videos=(--train 96 --val 24)
  clip=(--stills 512 --steps 10)
  training=(--config.steps=12 --config.optimizer.warmup_epochs=0 --config.log.every_steps=4)
  training+=(--config.checkpoint.save_every_steps=6)
fi
output="${output:-demo}"

source scripts/environment.sh
make_environment requirements.txt
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=2 MPLBACKEND=agg # .venv does not have the notebook backend

SECONDS=0
stage "videos: moving shapes as H.264 mp4 files, and their lists"
run python -m examples.demo.render_videos --output "$output/videos" ${videos[@]+"${videos[@]}"}

stage "a tiny CLIP, trained on images with captions"
run python -m examples.demo.train_tiny_backbone --output "$output/clip" ${clip[@]+"${clip[@]}"}

stage "records: mp4 to DMVR TFRecords"
run python -m dist_jax.build_records --videos "$output/videos" --list "$output/videos/train.txt" \
  --output "$output/records" --name train --shards 8
run python -m dist_jax.build_records --videos "$output/videos" --list "$output/videos/val.txt" \
  --output "$output/records" --name val --shards 2 --labels "$output/records/labels.txt"

settings=(
  "--config.backbone.weights=$output/clip"
  "--config.data.train=$output/records/train@8"
  "--config.data.val=$output/records/val@2"
  ${training[@]+"${training[@]}"}
)

stage "DiST: training and evaluation"
run python -m dist_jax.main --config=configs/demo.py "${settings[@]}" --workdir="$output/run"

stage "baselines on the same frozen CLIP: no training, a linear and an attentive probe"
run python -m dist_jax.main --config=configs/demo.py:network=none "${settings[@]}" --workdir="$output/plain_clip" \
  --evaluate --results=val
for probe in linear_probe attentive_probe; do
  run python -m dist_jax.main "--config=configs/demo.py:network=$probe" "${settings[@]}" --workdir="$output/$probe"
done
run python -m dist_jax.compare "$output/plain_clip" "$output/linear_probe" "$output/attentive_probe" "$output/run" \
  --output "$output/comparison"

stage "the report"
run python -m examples.demo.report --run "$output/run" --videos "$output/videos" --output "$output/report.png"

stage "one prediction, as for your own video"
run python -m dist_jax.predict --model "$output/run" --video "$output/videos/val/00000.mp4" --top 3
echo
echo "done in ${SECONDS} s; all results are in $output/"
