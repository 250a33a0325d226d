#!/usr/bin/env bash
# Submits a training run to Slurm. See --help and docs/launch.md.
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END_OF_USAGE'
usage: scripts/launch/slurm.sh --nodes=N --gpus=N --cpus=N --config=FILE --workdir=DIR [option...] [-- FLAG...]

Submits one batch job with one process per node; each process uses all GPUs of its node. On preemption, and two minutes
before the time limit, training saves and the job requeues itself. `scancel JOB` ends the job. Submit the same --workdir
again to resume from the last checkpoint.

  --nodes=N         number of nodes
  --gpus=N          GPUs per node
  --cpus=N          CPU cores per node, for the input pipeline
  --config=FILE     a file in configs/
  --workdir=DIR     folder of checkpoints and logs, on a disk that all nodes share
  --time=LIMIT      3 minutes or more, e.g. 12:00:00 or 2-00:00:00 (default: the partition's limit)
  --partition=NAME  as in sbatch
  --account=NAME    as in sbatch
  --name=NAME       job name (default: dist_jax)
  --python=PATH     interpreter with the requirements and jax[cuda13] (default: .venv/bin/python)
  --dry-run         print the commands, here and on the first node; run nothing
  -- FLAG...        further flags of dist_jax.main, e.g. --config.batch_size=512
END_OF_USAGE
}

nodes="" gpus="" cpus="" config="" workdir="" limit="" partition="" account="" name=dist_jax python=.venv/bin/python
flags=()

parse() {
  while (($# > 0)); do
    case "$1" in
      --*=) fail "$1 has no value (see --help)" ;;
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
  check --workdir "$workdir" '/[^\\]+' /shared/runs/demo # sbatch changes backslashes in the name of the log
  check --name "$name" '[A-Za-z0-9_.-]+' my-run
  [[ -z "$limit" ]] || check_limit
  [[ -z "$partition" ]] || check --partition "$partition" '[A-Za-z0-9_.,-]+' gpu
  [[ -z "$account" ]] || check --account "$account" '[A-Za-z0-9_.-]+' my-project
}

# Minutes of --time, without seconds: MINUTES[:SECONDS], HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES[:SECONDS]].
minutes_of_limit() {
  local days=0 first second third
  [[ "$limit" != *-* ]] || days="${limit%%-*}"
  IFS=: read -r first second third <<<"${limit#*-}"
  if [[ "$limit" == *-* || -n "$third" ]]; then
    printf '%s' $((1440 * 10#$days + 60 * 10#$first + 10#${second:-0}))
  else
    printf '%s' $((10#$first))
  fi
}

# Training that is stopped during its first minute makes no progress, and the job would be requeued forever.
check_limit() {
  check --time "$limit" '([0-9]+-)?[0-9]+(:[0-9]+){0,2}' 12:00:00
  (($(minutes_of_limit) >= 3)) || fail "--time=$limit is too short: the job stops 2 minutes before it; use 3 minutes or more"
}

# check_cluster: fails unless the job can be submitted here and the nodes, which share this disk, can run Python.
check_cluster() {
  type sbatch >/dev/null 2>&1 || fail "sbatch is missing: run this script on a machine of the Slurm cluster"
  (cd "$root" && type -P "$python" >/dev/null) ||
    fail "--python=$python: no such program in $root; create .venv or use another --python"
}

submit() {
  local job=("$python" --config="$config" --workdir="$workdir" ${flags[@]+"${flags[@]}"})
  ((dry_run)) || check_cluster
  run mkdir -p "$workdir"
  # Slurm sends TERM to the processes, not to the batch script: they save, then the script requeues the job.
  run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node=1 --gpus-per-node="$gpus" --cpus-per-task="$cpus" \
    ${limit:+"--time=$limit"} ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
    --requeue --signal=TERM@120 --open-mode=append --output="${workdir//%/%%}/slurm-%j.log" --chdir="$root" \
    scripts/launch/slurm_job.sh "${job[@]}"
  if ((dry_run)); then
    SLURM_JOB_ID=JOB SLURM_GPUS_ON_NODE="$gpus" SLURM_CPUS_PER_TASK="$cpus" \
      bash "$root/scripts/launch/slurm_job.sh" --dry-run "${job[@]}"
  else
    note "log: $workdir/slurm-JOB.log"
  fi
}

parse "$@"
check_arguments
submit
