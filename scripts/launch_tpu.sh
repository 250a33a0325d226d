#!/usr/bin/env bash
# Trains on a Cloud TPU slice and goes on after preemption: see usage, and docs/launch.md.
set -euo pipefail
# shellcheck source=scripts/launching.sh
source "$(dirname "${BASH_SOURCE[0]}")/launching.sh"

usage() {
  cat <<'END_OF_USAGE'
usage: scripts/launch_tpu.sh run    --name=NAME --zone=ZONE --type=TYPE --config=FILE --workdir=gs://...
                                    [option...] [-- FLAG...]
       scripts/launch_tpu.sh log    --name=NAME --zone=ZONE    follows the log of a run
       scripts/launch_tpu.sh stop   --name=NAME --zone=ZONE    lets training save and ends it; the slice stays
       scripts/launch_tpu.sh delete --name=NAME --zone=ZONE    gives the slice back

`run` creates the slice with a queued resource (or takes the one of this name), copies this checkout to all workers,
installs, starts training on all of them and follows the log. It starts again where training saved and stopped, and
makes the slice anew where it was preempted. Interrupted, it leaves training running: `log` goes on showing it.

  --type=TYPE       v5litepod-64, v6e-16, v5p-8, v4-32, ...
  --config=FILE     a file of configs/; --workdir=gs://...: checkpoints and logs, reachable by all workers
  --spot            a slice that may be preempted, at a lower price; --reserved: one of a reservation
  --project=ID      without it, gcloud's own default
  --runtime=NAME    TPU software version; without it, the one of the type
  --restarts=N      starts again at most so often; 100 without it
  --poll=SECONDS    time between two looks at a waiting request, two tries, two starts; 30 without it
  --dry-run         prints the commands of a run that meets nothing unexpected, and runs none
  -- FLAG...        more flags of dist_jax.main, e.g. --config.batch_size=512
END_OF_USAGE
}

name="" zone="" project="" type="" runtime="" config="" workdir="" restarts=100 poll=30 capacity=()
state="" found="" asked=0 begun=0 # what gcloud last said of the slice; whether it ever did, and whether training began

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
    *) fail "--type=$1: its TPU software version is not known here: give --runtime" ;;
  esac
}

tpus() {
  run gcloud compute tpus "$@" "${where[@]}"
}

# on_workers WHICH WORD...: runs the words, whatever is in them, on the workers WHICH ("all" or a number).
on_workers() {
  tpus tpu-vm ssh "$name" --worker="$1" --command="$(quoted "${@:2}")"
}

# slice_state ASSUMED: state and type of the queued resource of this name; nothing where there is none.
slice_state() {
  query "$1" gcloud compute tpus queued-resources list --filter="name~/$name\$" \
    --format='value(state.state,tpu.nodeSpec[0].node.acceleratorType.basename())' "${where[@]}"
}

# look ASSUMED: asks for the state and type of the slice, as `state` and `found`. At first, what keeps gcloud from
# answering is the user's to mend (no login, no such project); in a run of days it may pass, and is waited for.
look() {
  local answer
  until answer="$(slice_state "$1")"; do
    ((asked)) || fail "gcloud, whose message is above, does not say whether there is a slice $name"
    note "no answer from gcloud; asking again in $poll seconds"
    sleep "$poll"
  done
  asked=1
  state="" found=""
  read -r state found <<<"$answer" || true
}

# Returns when the slice is there: asks for one where there is none, and anew where it was preempted.
# The functions below run where errexit does not reach, hence `|| return`.
bring_up() {
  local assumed=""
  while true; do
    look "$assumed"
    if [[ -n "$found" && "$found" != "$type" ]]; then
      fail "$name is a $found, not --type=$type: choose another --name, or delete it first"
    fi
    case "$state" in
      ACTIVE) return ;;
      "")
        tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
          --runtime-version="$runtime" ${capacity[@]+"${capacity[@]}"} || return
        assumed=ACTIVE
        ;;
      FAILED | SUSPENDED) tpus queued-resources delete "$name" --force --quiet || return ;;
      *)
        note "$name is $state; looking again in $poll seconds"
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
  on_workers all bash dist_jax/scripts/tpu_worker.sh install
}

attempt() {
  bring_up || return
  install || return
  on_workers all bash dist_jax/scripts/tpu_worker.sh start \
    --config="$config" --workdir="$workdir" ${flags[@]+"${flags[@]}"} || return
  begun=1
  on_workers 0 bash dist_jax/scripts/tpu_worker.sh follow
}

train() {
  local status restarted=0
  trap 'note "training goes on; follow it with: $0 log --name=$name --zone=$zone"; exit 130' INT
  while true; do
    status=0
    attempt || status=$?
    case "$status" in
      0) note "finished" && return ;;
      130) note "stopped on request" && return 130 ;;
    esac
    look ACTIVE
    # 75: saved and stopped. 255: the connection is lost. A slice that is not active was taken away.
    if [[ "$state" == ACTIVE && "$status" != 75 && "$status" != 255 ]]; then
      fail "training ended with status $status; the slice is still there, the log shows why"
    fi
    [[ -n "$state" || "$begun" == 1 ]] || fail "gcloud, whose message is above, does not make a slice $name"
    ((restarted < restarts)) || fail "training stopped with status $status after --restarts=$restarts new starts"
    restarted=$((restarted + 1))
    note "status $status; start $restarted of at most $restarts more, in $poll seconds"
    if [[ "$state" == ACTIVE ]]; then
      on_workers all bash dist_jax/scripts/tpu_worker.sh stop || true # all must have ended before any starts
    fi
    sleep "$poll"
  done
}

flags=()
action="${1:-}"
case "$action" in
  run | log | stop | delete) ;;
  --help) usage && exit ;;
  *) fail "unknown action '$action': run, log, stop or delete (see --help)" ;;
esac
parse "${@:2}"
check_place "$name" "$zone" "$project"
case "$action" in
  run)
    check_training "$type" "$config" "$workdir" "$restarts"
    check --poll "$poll" '[0-9]+' 30
    ((${#capacity[@]} < 2)) || fail "--spot and --reserved exclude each other: give one"
    [[ -n "$runtime" ]] || runtime="$(runtime_of "$type")"
    train
    ;;
  log) on_workers 0 bash dist_jax/scripts/tpu_worker.sh follow ;;
  stop) on_workers all bash dist_jax/scripts/tpu_worker.sh stop ;;
  delete) tpus queued-resources delete "$name" --force --quiet ;;
esac
