#!/usr/bin/env bash
# Installs Slurm from Debian's or Ubuntu's packages, unless it is installed: bash tests/slurm/install.sh
#
# The packages start no service. Fails with one line if Slurm cannot be installed: without root, sudo or apt-get, or if
# apt-get fails.
set -euo pipefail
PATH="$PATH:/usr/sbin"
policy=/usr/sbin/policy-rc.d # decides for Debian's packages whether they start services; status 101: no

installed() {
  type munged slurmctld slurmd sbatch srun scontrol >/dev/null 2>&1
}

# fail REASON: prints one line to stderr and exits with status 1.
fail() {
  echo "error: cannot install Slurm (packages slurm-wlm and munge): $1" >&2
  exit 1
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  else
    sudo --non-interactive "$@"
  fi
}

# An existing policy stays: it is the user's. The caller removes ours.
install_packages() {
  if [[ ! -e "$policy" ]]; then
    own_policy="$policy"
    printf '#!/bin/sh\nexit 101\n' | as_root install --mode=755 /dev/stdin "$policy" || return
  fi
  as_root apt-get update || return
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends slurm-wlm munge
}

clean_up() {
  rm -f "$log"
  [[ -z "$own_policy" ]] || as_root rm -f "$own_policy"
}

if installed; then
  exit
fi
type apt-get >/dev/null 2>&1 || fail "apt-get is missing"
as_root true 2>/dev/null || fail "this needs root, or sudo without a password"
log="$(mktemp)"
own_policy=""
trap clean_up EXIT
install_packages </dev/null >"$log" 2>&1 || fail "$({ grep "^E: " "$log" || cat "$log"; } | tail --lines=1)"
installed || fail "the packages lack munged, slurmctld, slurmd, sbatch, srun or scontrol"
