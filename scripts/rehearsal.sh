#!/usr/bin/env bash
# A dress rehearsal of the paper's experiments on rendered stand-ins of the data sets:
#
#   bash scripts/rehearsal.sh [--short] [--output DIR]
#
# Kinetics-710 -> Kinetics-400 -> evaluation with 3 views and 3 crops -> zero-shot evaluation on UCF101, HMDB51 and
# Kinetics-600 -> EPIC-KITCHENS-100. The annotations have the published layouts. A stage must print the lines of
# DIR/data/expected/STAGE.txt.
#
#   --output DIR  output folder (default: rehearsal); finished stages are skipped
#   --short       few videos and steps, and no EPIC-KITCHENS-100: a functional check, with accuracy near chance
#
# Requires bash and Python 3.11 to 3.13 (PYTHON=... selects one).
# Takes about five minutes on two CPU cores after the installation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/stages.sh
parse_arguments "$@"

render=() clip=() pretraining=(--config.steps=450) epic_steps=60
finetuning=(--config.steps=120 --config.optimizer.warmup_epochs=1)
if "$short"; then
  output="${output:-rehearsal/short}"
  render=(--short)
  clip=(--stills 512 --steps 10)
  pretraining=(--config.steps=4 --config.optimizer.warmup_epochs=0)
  finetuning=("${pretraining[@]}")
fi
output="${output:-rehearsal}"

source scripts/environment.sh
make_environment requirements.txt
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=2 MPLBACKEND=agg # .venv does not have the notebook backend

SECONDS=0

# checked STAGE COMMAND...: runs the command and checks that it prints the lines of expected/STAGE.txt.
checked() {
  local name="$1" line
  shift
  run "$@" 2>&1 | tee "$output/logs/$name.txt"
  while IFS= read -r line; do
    grep -qF -- "$line" "$output/logs/$name.txt" || fail "$name: the output has no line with: $line"
  done <"$output/data/expected/$name.txt"
}

# same STAGE FILE: checks that the file is equal to expected/STAGE.txt.
same() {
  diff "$output/data/expected/$1.txt" "$2" || fail "$2 is not as expected (see above)"
}

mkdir -p "$output/logs"

stage "videos and annotations in the published layouts"
run python -m examples.rehearsal.render --output "$output/data" ${render[@]+"${render[@]}"}
annotations="$output/data/annotations" videos="$output/data/videos" records="$output/records"

stage "a tiny CLIP, trained on images with captions"
run python -m examples.demo.train_tiny_backbone --output "$output/clip" ${clip[@]+"${clip[@]}"}

stage "records of Kinetics-710 and Kinetics-400"
build() { # STAGE DATASET SPLIT ANNOTATIONS VIDEOS NAME SHARDS; one process: more take longer to start than they save
  checked "records_$1" python -m dist_jax.build_records --dataset "$2" --split "$3" --annotations "$4" --videos "$5" \
    --output "$records/$6" --shards "$7" --workers 1
}
kinetics=("$annotations/kinetics" "$videos/kinetics")
build k710_train kinetics710 train "${kinetics[@]}" k710 8
build k710_val kinetics710 val "${kinetics[@]}" k710 2
kinetics=("$annotations/kinetics/kinetics400" "$videos/kinetics")
build k400_train kinetics400 train "${kinetics[@]}" k400 4
build k400_val kinetics400 val "${kinetics[@]}" k400 2
same labels_k710 "$records/k710/labels.txt"
same labels_k400 "$records/k400/labels.txt"

# The sizes and the recipe of configs/demo.py, in place of those for CLIP ViT-L/14 and 8 GPUs.
model=(
  "--config.backbone.weights=$output/clip"
  --config.model.integration_width=128
  --config.model.temporal_width=32
  --config.model.num_pooling_layers=1
  --config.eval.batch_size=24
)
training=(
  "${model[@]}"
  --config.batch_size=16
  --config.augment.crop_scale="(0.7, 1.0)"
  --config.augment.grayscale_prob=0.0
  --config.mix.mixup_alpha=0.0
  --config.mix.cutmix_alpha=0.0
  --config.mix.group_size=1
  --config.mix.label_smoothing=0.0
  --config.optimizer.learning_rate=1e-3
  --config.optimizer.warmup_epochs=4
  --config.optimizer.grad_clip_norm=1.0
  --config.eval.every_epochs=1000
  --config.log.every_steps=20
)

stage "pre-training on Kinetics-710, 4+8 frames"
run python -m dist_jax.main --config=configs/k710_vitl.py --workdir="$output/k710" \
  "--config.data.train=$records/k710/train@8" "--config.data.val=$records/k710/val@2" \
  "${training[@]}" --config.model.num_frames=8 "--config.augment.hflip_label_pairs=3,4" "${pretraining[@]}"

stage "fine-tuning on Kinetics-400, 8+16 frames: interpolated time"
k400=(
  --config=configs/k400_vitl.py --workdir="$output/k400" "--config.init_from=$output/k710"
  "--config.data.train=$records/k400/train@4" "--config.data.val=$records/k400/val@2"
  "${training[@]}" --config.model.num_frames=16 "--config.augment.hflip_label_pairs=2,3" "${finetuning[@]}"
)
run python -m dist_jax.main "${k400[@]}"

stage "evaluation with 3 views and 3 crops"
checked evaluate_k400 python -m dist_jax.main "${k400[@]}" --evaluate --config.eval.num_crops=3

stage "zero-shot evaluation on UCF101, HMDB51 and Kinetics-600"
zero_shot() { # DATASET RECORDS LISTS: three splits; LISTS sets their lists of videos or classes
  checked "zero_shot_$1" python -m dist_jax.main "--config=configs/zero_shot.py:$1,frames=16" \
    --workdir="$output/zero_shot_$1" --evaluate "--config.init_from=$output/k400" "--config.data.val=$records/$1/$2" \
    "--config.data.class_names_file=$records/$1/labels.txt" "$3" "${model[@]}"
}
for name in ucf101 hmdb51; do
  build "$name" "$name" test "$annotations/$name" "$videos/$name" "$name" 2
done
build k600 kinetics600 val "$annotations/kinetics/kinetics600" "$videos/kinetics" k600 2
lists="$annotations/ucf101/testlist0"
zero_shot ucf101 test@2 "--config.eval.video_lists=${lists}1.txt,${lists}2.txt,${lists}3.txt"
lists="$annotations/hmdb51/*_test_split"
zero_shot hmdb51 test@2 "--config.eval.video_lists=${lists}1.txt,${lists}2.txt,${lists}3.txt"
lists="$annotations/k600_classes/classes"
zero_shot k600 val@2 "--config.eval.class_lists=${lists}1.txt,${lists}2.txt,${lists}3.txt"

stage "plain CLIP on Kinetics-400, without a network"
checked plain_clip_k400 python -m dist_jax.main --config=configs/k400_vitl.py:init=random \
  --workdir="$output/plain_clip_k400" --evaluate "--config.data.val=$records/k400/val@2" \
  "--config.data.class_names_file=$records/k400/labels.txt" "${model[@]}" --config.model.num_frames=16 \
  --config.model.network=none

epic100() { # DiST on verbs and nouns, its accuracies and the file for the challenge
  local split folder="$annotations/epic100" scores="$output/epic100/results" epic=(
    --config=configs/epic100.py:frames=16 --workdir="$output/epic100" "--config.init_from=$output/k400"
    "--config.data.train=$records/epic100/train@2" "${training[@]}" "--config.steps=$epic_steps"
  )
  for split in train val test; do
    build "epic_$split" epic100 "$split" "$folder" "$videos/epic100" epic100 2
  done
  run python -m dist_jax.main "${epic[@]}" "--config.data.val=$records/epic100/val@2"
  checked evaluate_epic python -m dist_jax.main "${epic[@]}" "--config.data.val=$records/epic100/val@2" --evaluate \
    "--config.eval.epic_annotations=$folder"
  checked evaluate_epic_test python -m dist_jax.main "${epic[@]}" "--config.data.val=$records/epic100/test@2" --evaluate \
    --results=test --config.eval.has_labels=False
  run python -m dist_jax.epic --scores "$scores/evaluate_scores.npz" --annotations "$folder/EPIC_100_validation.csv"
  checked challenge_epic python -m dist_jax.epic --scores "$scores/test_scores.npz" --output "$output/epic_test.zip" \
    --annotations "$folder/EPIC_100_test_timestamps.csv" --sls-pt 2 --sls-tl 3 --sls-td 3
}
if ! "$short"; then
  stage "EPIC-KITCHENS-100: verbs and nouns"
  epic100
fi

stage "comparison of the runs"
run python -m dist_jax.compare "$output/k400" "$output/plain_clip_k400" --results evaluate \
  --output "$output/comparison"
echo
echo "done in ${SECONDS} s; all results are in $output/"
