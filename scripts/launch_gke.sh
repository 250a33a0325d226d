#!/usr/bin/env bash
# Trains on TPUs of a GKE cluster by way of XPK, which restarts after preemption: see usage, and docs/launch.md.
set -euo pipefail
# shellcheck source=scripts/launching.sh
source "$(dirname "${BASH_SOURCE[0]}")/launching.sh"

usage() {
  cat <<'END_OF_USAGE'
usage: scripts/launch_gke.sh run  --name=NAME --cluster=NAME --zone=ZONE --type=TYPE --config=FILE --workdir=gs://...
                                  [option...] [-- FLAG...]
       scripts/launch_gke.sh log  --name=NAME --cluster=NAME --zone=ZONE    follows the log of worker 0
       scripts/launch_gke.sh stop --name=NAME --cluster=NAME --zone=ZONE    lets training save and deletes the workload

`run` submits this checkout as a workload to a cluster that `xpk cluster create` made. The workload is restarted where
training saved and stopped, or its machines were taken away. Needs xpk (one that knows --restart-on-exit-codes).

  --type=TYPE       v5litepod-64, v6e-16, ...
  --config=FILE     a file of configs/; --workdir=gs://...: checkpoints and logs, reachable by all workers
  --project=ID      without it, gcloud's own default
  --image=IMAGE     container image with the requirements and jax[tpu]; without it, they are installed at each start
  --restarts=N      restarts at most so often; 100 without it
  --dry-run         prints the commands and runs none
  -- FLAG...        more flags of dist_jax.main, e.g. --config.batch_size=512
END_OF_USAGE
}

name="" cluster="" zone="" project="" type="" config="" workdir="" image="" restarts=100 flags=()

parse() {
  while (($# > 0)); do
    case "$1" in
      --name=*) name="${1#*=}" ;;
      --cluster=*) cluster="${1#*=}" ;;
      --zone=*) zone="${1#*=}" ;;
      --project=*) project="${1#*=}" ;;
      --type=*) type="${1#*=}" ;;
      --config=*) config="${1#*=}" ;;
      --workdir=*) workdir="${1#*=}" ;;
      --image=*) image="${1#*=}" ;;
      --restarts=*) restarts="${1#*=}" ;;
      --dry-run) dry_run=1 ;;
      --) flags=("${@:2}") && return ;;
      *) unknown_argument "$1" ;;
    esac
    shift
  done
}

# XPK adds --script-dir, all of it, to the image: a copy without .venv and data is what it gets.
submit() {
  local source="$staging/$name" install="" training
  training="$(quoted python3 -m dist_jax.main --distributed --config="$config" --workdir="$workdir" \
    ${flags[@]+"${flags[@]}"})"
  if [[ -z "$image" ]]; then
    image=python:3.12-slim
    install="$(quoted python3 -m pip install --quiet --requirement=requirements.txt 'jax[tpu]') && "
  fi
  run rm -rf "$source"
  run mkdir -p "$source"
  run cp -R "$root/dist_jax" "$root/configs" "$root/scripts" "$root/requirements.txt" "$source"
  # Of its own accord XPK restarts on 42 and 127-255 alone. `exec` lets the pod's SIGTERM reach Python.
  run xpk workload create --workload="$name" --cluster="$cluster" "${where[@]}" --tpu-type="$type" \
    --base-docker-image="$image" --script-dir="$source" --max-restarts="$restarts" --restart-on-exit-codes=75 \
    --termination-grace-period-seconds=300 --command="${install}exec $training"
}

follow() {
  local project_flag=(${project:+"--project=$project"}) location
  location="$(query "${zone%-*}" gcloud container clusters list --filter="name=$cluster" \
    --format='value(location)' ${project_flag[@]+"${project_flag[@]}"})"
  [[ -n "$location" ]] || fail "--cluster=$cluster: gcloud lists no such cluster"
  run gcloud container clusters get-credentials "$cluster" --location="$location" \
    ${project_flag[@]+"${project_flag[@]}"}
  run kubectl logs --follow --tail=100 --container=jax-tpu \
    --selector="xpk.google.com/workload=$name,batch.kubernetes.io/job-completion-index=0"
}

action="${1:-}"
case "$action" in
  run | log | stop) ;;
  --help) usage && exit ;;
  *) fail "unknown action '$action': run, log or stop (see --help)" ;;
esac
parse "${@:2}"
check_place "$name" "$zone" "$project"
check --cluster "$cluster" '[a-z][a-z0-9-]{0,37}[a-z0-9]' my-cluster
case "$action" in
  run)
    check_training "$type" "$config" "$workdir" "$restarts"
    [[ -z "$image" ]] || check --image "$image" '[A-Za-z0-9][A-Za-z0-9./:@_-]*' us-docker.pkg.dev/project/dist_jax:1
    submit
    ;;
  log) follow ;;
  stop) run xpk workload delete --workload="$name" --cluster="$cluster" "${where[@]}" --force ;;
esac
