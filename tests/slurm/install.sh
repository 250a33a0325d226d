#!/usr/bin/env bash
# Installs Slurm from Debian's or Ubuntu's packages, unless it is installed: bash tests/slurm/install.sh
set -euo pipefail
bash "$(dirname "${BASH_SOURCE[0]}")/../install_packages.sh" "munged slurmctld slurmd sbatch srun scontrol" slurm-wlm munge
