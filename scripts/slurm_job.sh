#!/usr/bin/env bash
# The batch job that launch_slurm.sh submits: slurm_job.sh [--dry-run] PYTHON FLAG...
# It runs on the job's first node, in the checkout (sbatch --chdir), and starts training on all nodes.
set -euo pipefail
# shellcheck source=scripts/launching.sh
source scripts/launching.sh

if [[ "${1:-}" == --dry-run ]]; then
  dry_run=1
  shift
fi

# Without this, JAX gives a process under Slurm a single GPU; ours have their whole node's.
last=$((SLURM_GPUS_ON_NODE - 1))
devices="$(seq -s , 0 "$last")"

# Processes that save and stop end one after the other, so the first to end must not take the others with it at once.
# srun ends with the highest status of all, 128 and more where a signal ended one: 75 means that training saved.
status=0
run srun --kill-on-bad-exit=0 --wait=300 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  env JAX_LOCAL_DEVICE_IDS="$devices" "$1" -m dist_jax.main --distributed "${@:2}" || status=$?

if ((dry_run)); then
  printf '# and where that ends with status 75:\n'
fi
if ((dry_run || status == 75)); then
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
