#!/usr/bin/env bash
# Trains on a Cloud TPU slice and resumes after preemption. See --help and docs/launch.md.
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END_OF_USAGE'
usage: scripts/launch/tpu.sh run    --name=NAME --zone=ZONE --type=TYPE --config=FILE --workdir=gs://...
                                    [option...] [-- FLAG...]
       scripts/launch/tpu.sh log    --name=NAME --zone=ZONE    follow the log of a run
       scripts/launch/tpu.sh stop   --name=NAME --zone=ZONE    save and stop training; keep the slice
       scripts/launch/tpu.sh delete --name=NAME --zone=ZONE    delete the slice

`run` creates the slice as a queued resource (or uses the existing one with this name), copies this checkout to all
workers, installs the requirements, starts training on all workers and follows the log. It restarts training after a
save, and creates a new slice after a preemption. Ctrl-C stops `run` only; training continues. `log` follows it again.

  --type=TYPE       v5litepod-64, v6e-16, v5p-8, v4-32, ...
  --config=FILE     a file in configs/
  --workdir=gs://   folder of checkpoints and logs; all workers must be able to access it
  --spot            preemptible slice at a lower price
  --reserved        slice from a reservation
  --project=ID      Google Cloud project (default: gcloud's)
  --runtime=NAME    TPU software version (default: chosen by --type)
  --restarts=N      maximum number of restarts (default: 100)
  --poll=SECONDS    interval between status checks, retries and restarts (default: 30)
  --dry-run         print the commands of a run without errors; run nothing
  -- FLAG...        further flags of dist_jax.main, e.g. --config.batch_size=512
END_OF_USAGE
}

name="" zone="" project="" type="" runtime="" config="" workdir="" restarts=100 poll=30 capacity=()
# State and type of the slice in gcloud's last answer; whether gcloud has answered once; whether training has started.
state="" slice_type="" answered=0 started=0

parse() {
  while (($# > 0)); do
    case "$1" in
      --name=*) name="${1#*=}" ;;
      --zone=*) zone="${1#*=}" ;;
      --project=*) project="${1#*=}" ;;
      --type=*) type="${1#*=}" ;;
      --runtime=*) runtime="${1#*=}" ;;
      --config=*) config="${1#*=}" ;;
      --workdir=*) workdir="${1#*=}" ;;
      --restarts=*) restarts="${1#*=}" ;;
      --poll=*) poll="${1#*=}" ;;
      --spot | --reserved) capacity+=("$1") ;;
      --dry-run) dry_run=1 ;;
      --) flags=("${@:2}") && return ;;
      *) unknown_argument "$1" ;;
    esac
    shift
  done
}

# runtime_of TYPE: the TPU software version for JAX (Cloud TPU documentation, "TPU software versions").
runtime_of() {
  case "$1" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "--type=$1: unknown TPU software version for this type: set --runtime" ;;
  esac
}

tpus() {
  run gcloud compute tpus "$@" "${where[@]}"
}

# on_workers WORKERS WORD...: runs a command on the workers ("all" or a number). Words may hold any characters.
on_workers() {
  tpus tpu-vm ssh "$name" --worker="$1" --command="$(quoted "${@:2}")"
}

# slice_state ASSUMED: prints state and type of the queued resource with this name; nothing if there is none.
slice_state() {
  query "$1" gcloud compute tpus queued-resources list --filter="name~/$name\$" \
    --format='value(state.state,tpu.nodeSpec[0].node.acceleratorType.basename())' "${where[@]}"
}

# update_state ASSUMED: sets `state` and `slice_type`. If gcloud's first answer is an error, the launcher fails, because
# the user must fix it (login, project). Later errors may be temporary: the launcher waits and asks again.
update_state() {
  local answer
  until answer="$(slice_state "$1")"; do
    ((answered)) || fail "cannot get the state of slice $name: see gcloud's message above"
    note "gcloud does not answer; retrying in $poll seconds"
    sleep "$poll"
  done
  answered=1
  state="" slice_type=""
  read -r state slice_type <<<"$answer" || true
}

# Waits until the slice is active. Creates it if it does not exist, and again if it was preempted.
# errexit is off in this function and the next two (they run in an || list), hence `|| return`.
bring_up() {
  local assumed=""
  while true; do
    update_state "$assumed"
    if [[ -n "$slice_type" && "$slice_type" != "$type" ]]; then
      fail "slice $name has type $slice_type, not --type=$type: use another --name or delete the slice first"
    fi
    case "$state" in
      ACTIVE) return ;;
      "")
        tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
          --runtime-version="$runtime" ${capacity[@]+"${capacity[@]}"} || return
        assumed=ACTIVE
        ;;
      SUSPENDED) tpus queued-resources delete "$name" --force --quiet || return ;;
      FAILED)
        fail "slice $name has failed: 'gcloud compute tpus queued-resources describe $name --zone=$zone' says why; then" \
          "run: $0 delete --name=$name --zone=$zone"
        ;;
      *)
        note "$name is $state; checking again in $poll seconds"
        sleep "$poll"
        ;;
    esac
  done
}

install() {
  local archive="$staging/$name.tar.gz"
  run mkdir -p "$staging" || return
  run tar --create --gzip --file="$archive" --exclude=__pycache__ --directory="$root" \
    dist_jax configs scripts requirements.txt || return
  tpus tpu-vm scp "$archive" "$name:dist_jax.tar.gz" --worker=all || return
  on_workers all tar --extract --gzip --file=dist_jax.tar.gz --one-top-level=dist_jax || return
  on_workers all bash dist_jax/scripts/launch/tpu_worker.sh install
}

attempt() {
  bring_up || return
  install || return
  on_workers all bash dist_jax/scripts/launch/tpu_worker.sh start \
    --config="$config" --workdir="$workdir" ${flags[@]+"${flags[@]}"} || return
  started=1
  on_workers 0 bash dist_jax/scripts/launch/tpu_worker.sh follow
}

train() {
  local status restarted=0
  trap 'note "training continues; follow it with: $0 log --name=$name --zone=$zone"; exit 130' INT
  while true; do
    status=0
    attempt || status=$?
    case "$status" in
      0) note "finished" && return ;;
      130) note "stopped by the stop command" && return 130 ;;
    esac
    update_state ACTIVE
    # 75: training saved and stopped. 255: the ssh connection broke. A slice that is not active was preempted.
    if [[ "$state" == ACTIVE && "$status" != 75 && "$status" != 255 ]]; then
      fail "training ended with status $status: see the log; the slice still exists"
    fi
    [[ -n "$state" || "$started" == 1 ]] || fail "cannot create slice $name: see gcloud's message above"
    ((restarted < restarts)) || fail "training stopped with status $status after --restarts=$restarts restarts"
    restarted=$((restarted + 1))
    note "status $status; restart $restarted of at most $restarts in $poll seconds"
    if [[ "$state" == ACTIVE ]]; then
      on_workers all bash dist_jax/scripts/launch/tpu_worker.sh stop || true # stop all workers before any restarts
    fi
    sleep "$poll"
  done
}

flags=()
action="${1:-}"
case "$action" in
  run | log | stop | delete) ;;
  --help) usage && exit ;;
  *) fail "unknown action '$action': use run, log, stop or delete (see --help)" ;;
esac
parse "${@:2}"
check_place "$name" "$zone" "$project"
case "$action" in
  run)
    check_training "$type" "$config" "$workdir" "$restarts"
    check --poll "$poll" '[0-9]+' 30
    ((${#capacity[@]} < 2)) || fail "--spot and --reserved exclude each other: use one"
    [[ -n "$runtime" ]] || runtime="$(runtime_of "$type")"
    train
    ;;
  log) on_workers 0 bash dist_jax/scripts/launch/tpu_worker.sh follow ;;
  stop) on_workers all bash dist_jax/scripts/launch/tpu_worker.sh stop ;;
  delete) tpus queued-resources delete "$name" --force --quiet ;;
esac
