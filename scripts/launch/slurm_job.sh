#!/usr/bin/env bash
# The batch job that slurm.sh submits: slurm_job.sh [--dry-run] PYTHON FLAG...
# It runs on the first node of the job, in the checkout (sbatch --chdir), and starts training on all nodes.
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
source scripts/launch/common.sh

if [[ "${1:-}" == --dry-run ]]; then
  dry_run=1
  shift
fi

# Under Slurm, JAX gives each process one GPU by default. Here one process uses all GPUs of its node.
last=$((SLURM_GPUS_ON_NODE - 1))
devices="$(seq -s , 0 "$last")"

# Processes that save end at different times: the first one to end must not kill the others.
# srun returns the highest status of all processes, 128 and more after a signal. 75: training saved.
status=0
run srun --kill-on-bad-exit=0 --wait=300 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  env JAX_LOCAL_DEVICE_IDS="$devices" "$1" -m dist_jax.main --distributed "${@:2}" || status=$?

if ((dry_run)); then
  printf '# if the command above ends with status 75:\n'
fi
if ((dry_run || status == 75)); then
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
