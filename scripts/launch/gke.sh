#!/usr/bin/env bash
# Trains on the TPUs of a GKE cluster with XPK, which restarts after preemption. See --help and docs/launch.md.
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END_OF_USAGE'
usage: scripts/launch/gke.sh run  --name=NAME --cluster=NAME --zone=ZONE --type=TYPE --config=FILE --workdir=gs://...
                                  [option...] [-- FLAG...]
       scripts/launch/gke.sh log  --name=NAME --cluster=NAME --zone=ZONE    follow the log of worker 0
       scripts/launch/gke.sh stop --name=NAME --cluster=NAME --zone=ZONE    save, stop training and delete the workload

`run` submits this checkout as a workload to a cluster created with `xpk cluster create`. XPK restarts the workload
after a save and after a preemption. Requires a version of xpk with --restart-on-exit-codes.

  --type=TYPE       v5litepod-64, v6e-16, ...
  --config=FILE     a file in configs/
  --workdir=gs://   folder of checkpoints and logs; all workers must be able to access it
  --project=ID      Google Cloud project (default: gcloud's)
  --image=IMAGE     container image with the requirements and jax[tpu] (default: install them at each start)
  --restarts=N      maximum number of restarts (default: 100)
  --dry-run         print the commands; run nothing
  -- FLAG...        further flags of dist_jax.main, e.g. --config.batch_size=512
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

# XPK adds the whole --script-dir to the image: give it a copy without .venv and data.
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
  # By default XPK restarts on statuses 42 and 127-255 only. With `exec`, the pod's SIGTERM reaches Python.
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
  *) fail "unknown action '$action': use run, log or stop (see --help)" ;;
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
