#!/usr/bin/env bash
# What launch_tpu.sh runs on the workers of a TPU slice. Training is a systemd service there: it outlives the
# connection, cannot be started twice, and gets SIGTERM (save and stop) when the machine is taken away.
set -euo pipefail
# shellcheck source=scripts/launching.sh
source "$(dirname "${BASH_SOURCE[0]}")/launching.sh"

usage() {
  cat <<'END_OF_USAGE'
usage: tpu_worker.sh [--dry-run] install            installs the requirements into .venv
       tpu_worker.sh [--dry-run] start FLAG...      starts dist_jax.main with these flags, unless it is running
       tpu_worker.sh [--dry-run] follow             shows its log to its end; ends with its status, 130 after `stop`
       tpu_worker.sh [--dry-run] stop               lets it save, ends it and waits for that
END_OF_USAGE
}

readonly unit=dist_jax
readonly log="$root/run.log" stopped="$root/stopped" # the second is there while training stands still on request

# property NAME ASSUMED: one property of the service, as systemd knows it.
property() {
  query "$2" systemctl show --property="$1" --value "$unit"
}

install() {
  cd "$root"
  # The images' own Python is too old for JAX; uv brings one. On newer images pip must be told that this is meant.
  run env PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  run python3 -m uv venv --quiet --allow-existing --python=3.12 .venv
  run python3 -m uv pip install --quiet --python=.venv/bin/python --requirement=requirements.txt 'jax[tpu]'
}

start() {
  local state
  state="$(property SubState dead)"
  if [[ "$state" == running ]]; then
    note "training is running already"
    return
  fi
  run rm -f "$stopped"
  # What is left of an ended service is in the way of the next; there may be nothing left, which is no error.
  run sudo systemctl stop "$unit" 2>/dev/null || true
  run sudo systemctl reset-failed "$unit" 2>/dev/null || true
  # remain-after-exit keeps the status for `follow`; After makes the service stop before the network does;
  # mixed sends SIGTERM to the main process alone. systemd reads $$ as a plain $.
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
    return 75 # the machine has restarted and knows of no service: start it again
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
    *) fail "unknown action '${1:-}': install, start, follow or stop (see --help)" ;;
  esac
}

main "$@"
