#!/usr/bin/env bash
# tpu.sh runs this script on the workers of a TPU slice. Training is a systemd service: it continues if the connection
# breaks, runs only once, and receives SIGTERM (save and stop) when the machine is preempted.
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END_OF_USAGE'
usage: tpu_worker.sh [--dry-run] install          install the requirements into .venv
       tpu_worker.sh [--dry-run] start FLAG...    start dist_jax.main with these flags unless it is running
       tpu_worker.sh [--dry-run] follow           show the log until training ends; exit with its status (stop: 130)
       tpu_worker.sh [--dry-run] stop             save, stop training and wait until it has ended
END_OF_USAGE
}

readonly unit=dist_jax
readonly log="$root/run.log"
readonly stopped="$root/stopped" # this file exists after the stop command, until the next start

# property NAME ASSUMED: prints one systemd property of the service.
property() {
  query "$2" systemctl show --property="$1" --value "$unit"
}

install() {
  cd "$root"
  # The image's Python is too old for JAX; uv installs another. Newer images need PIP_BREAK_SYSTEM_PACKAGES for pip.
  run env PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  run python3 -m uv venv --quiet --allow-existing --python=3.12 .venv
  run python3 -m uv pip install --quiet --python=.venv/bin/python --requirement=requirements.txt 'jax[tpu]'
}

start() {
  local state
  state="$(property SubState dead)"
  if [[ "$state" == running ]]; then
    note "training is already running"
    return
  fi
  run rm -f "$stopped"
  # Remove the ended service, which would block a new one. There may be none: ignore errors.
  run sudo systemctl stop "$unit" 2>/dev/null || true
  run sudo systemctl reset-failed "$unit" 2>/dev/null || true
  # --remain-after-exit keeps the status for `follow`. After= stops the service before the network.
  # KillMode=mixed sends SIGTERM to the main process only. systemd reads $$ as $.
  run sudo systemd-run --quiet --unit="$unit" --uid="$(id -un)" --remain-after-exit \
    --working-directory="$root" --setenv=HOME="$HOME" \
    --property=After=network-online.target --property=KillMode=mixed --property=TimeoutStopSec=300 \
    --property=StandardOutput="append:$log" --property=StandardError="append:$log" \
    "$root/.venv/bin/python" -m dist_jax.main --distributed "${@//\$/\$\$}"
}

follow() {
  local pid loaded code status
  pid="$(property MainPID 1)"
  if [[ "$pid" != 0 ]]; then
    run tail --lines=100 --follow --pid="$pid" "$log"
  fi
  if [[ -e "$stopped" ]]; then
    return 130
  fi
  loaded="$(property LoadState loaded)"
  code="$(property ExecMainCode 1)"
  status="$(property ExecMainStatus 0)"
  if [[ "$loaded" != loaded ]]; then
    return 75 # the machine rebooted and the service no longer exists: start it again
  elif [[ "$code" != 1 ]]; then
    return $((128 + status)) # ended by a signal
  fi
  return "$status"
}

stop() {
  run touch "$stopped"
  run sudo systemctl stop "$unit"
}

main() {
  if [[ "${1:-}" == --dry-run ]]; then
    dry_run=1
    shift
  fi
  case "${1:-}" in
    start) start "${@:2}" ;;
    install | follow | stop) "$1" ;;
    --help) usage ;;
    *) fail "unknown action '${1:-}': use install, start, follow or stop (see --help)" ;;
  esac
}

main "$@"
