#!/usr/bin/env bash
# Submits a training run to Slurm: see usage, and docs/launch.md.
set -euo pipefail
# shellcheck source=scripts/launching.sh
source "$(dirname "${BASH_SOURCE[0]}")/launching.sh"

usage() {
  cat <<'END_OF_USAGE'
usage: scripts/launch_slurm.sh --nodes=N --gpus=N --cpus=N --config=FILE --workdir=DIR [option...] [-- FLAG...]

Submits one batch job: one process per node, which sees all its GPUs. Told to stop (preemption, or two minutes
before the time limit), training saves, and the job queues itself again. `scancel JOB` ends it for good; submitting
the same --workdir again goes on from its last checkpoint.

  --nodes=N         nodes; --gpus=N: GPUs of each; --cpus=N: CPU cores of each, for the input pipeline
  --config=FILE     a file of configs/; --workdir=DIR: checkpoints and log, on a disk that all nodes share
  --time=LIMIT      e.g. 12:00:00 or 2-00:00:00; without it, the partition's
  --partition=NAME --account=NAME --name=NAME    as sbatch has them; the name is dist_jax without it
  --python=PATH     interpreter with the requirements and jax[cuda13]; .venv/bin/python without it
  --dry-run         prints the commands, here and on the first node, and runs none
  -- FLAG...        more flags of dist_jax.main, e.g. --config.batch_size=512
END_OF_USAGE
}

nodes="" gpus="" cpus="" config="" workdir="" limit="" partition="" account="" name=dist_jax python=.venv/bin/python
flags=()

parse() {
  while (($# > 0)); do
    case "$1" in
      --nodes=*) nodes="${1#*=}" ;;
      --gpus=*) gpus="${1#*=}" ;;
      --cpus=*) cpus="${1#*=}" ;;
      --config=*) config="${1#*=}" ;;
      --workdir=*) workdir="${1#*=}" ;;
      --time=*) limit="${1#*=}" ;;
      --partition=*) partition="${1#*=}" ;;
      --account=*) account="${1#*=}" ;;
      --name=*) name="${1#*=}" ;;
      --python=*) python="${1#*=}" ;;
      --dry-run) dry_run=1 ;;
      --help) usage && exit ;;
      --) flags=("${@:2}") && return ;;
      *) unknown_argument "$1" ;;
    esac
    shift
  done
}

check_arguments() {
  check --nodes "$nodes" '[1-9][0-9]*' 2
  check --gpus "$gpus" '[1-9][0-9]*' 8
  check --cpus "$cpus" '[1-9][0-9]*' 96
  check_config "$config"
  check --workdir "$workdir" '/.+' /shared/runs/demo
  check --name "$name" '[A-Za-z0-9_.-]+' my-run
  [[ -z "$limit" ]] || check --time "$limit" '([0-9]+-)?[0-9]+(:[0-9]+){0,2}' 12:00:00
  [[ -z "$partition" ]] || check --partition "$partition" '[A-Za-z0-9_.,-]+' gpu
  [[ -z "$account" ]] || check --account "$account" '[A-Za-z0-9_.-]+' my-project
}

submit() {
  local job=("$python" --config="$config" --workdir="$workdir" ${flags[@]+"${flags[@]}"})
  run mkdir -p "$workdir"
  # TERM goes to the processes of the job's step, not to its script: they save, and the script queues the job again.
  run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node=1 --gpus-per-node="$gpus" --cpus-per-task="$cpus" \
    ${limit:+"--time=$limit"} ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
    --requeue --signal=TERM@120 --open-mode=append --output="$workdir/slurm-%j.log" --chdir="$root" \
    scripts/slurm_job.sh "${job[@]}"
  if ((dry_run)); then
    SLURM_JOB_ID=JOB SLURM_GPUS_ON_NODE="$gpus" SLURM_CPUS_PER_TASK="$cpus" \
      bash "$root/scripts/slurm_job.sh" --dry-run "${job[@]}"
  else
    note "its log: $workdir/slurm-JOB.log"
  fi
}

parse "$@"
check_arguments
submit
