# shellcheck shell=bash
# Shared functions of the launchers: checking arguments; running, printing and quoting commands.
# If `dry_run` is 1, commands are printed instead of run. Launchers set it before the first command.

dry_run=0
exec 3>&1 # output of a dry run; works inside $(...) too
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# Local folder for the archives and copies that are sent to other machines.
# shellcheck disable=SC2034 # used by the launchers
staging="${XDG_CACHE_HOME:-$HOME/.cache}/dist_jax/launch"

# fail WORD...: prints one line to stderr and exits with status 2.
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# unknown_argument ARGUMENT: fails with a message about the syntax of options.
unknown_argument() {
  fail "unknown argument '$1': write options as --name=value; put dist_jax.main flags after -- (see --help)"
}

# check OPTION VALUE PATTERN EXAMPLE: fails unless the extended regular expression matches the whole value.
check() {
  [[ -n "$2" ]] || fail "$1 is missing, e.g. $1=$4 (see --help)"
  [[ "$2" =~ ^($3)$ ]] || fail "$1='$2' is invalid; example: $1=$4"
}

# check_place NAME ZONE PROJECT: checks them by Google Cloud's rules; sets `where` to gcloud's zone and project flags.
check_place() {
  check --name "$1" '[a-z][a-z0-9-]{0,37}[a-z0-9]' my-run
  check --zone "$2" '[a-z]+-[a-z]+[0-9]+-[a-z0-9]+' us-east5-b
  [[ -z "$3" ]] || check --project "$3" '([a-z0-9.-]+:)?[a-z][a-z0-9-]+' my-project
  # shellcheck disable=SC2034 # used by the launchers
  where=(--zone="$2" ${3:+"--project=$3"})
}

# check_training TYPE CONFIG WORKDIR RESTARTS: checks the training options of the TPU launchers.
check_training() {
  check --type "$1" '[a-z0-9]+-[0-9]+' v5litepod-64
  check_config "$2"
  check --workdir "$3" 'gs://.+' gs://bucket/run
  check --restarts "$4" '[0-9]+' 100
}

# check_config FILE[:ARGUMENT]: fails unless FILE is in this checkout, because only the checkout is sent.
check_config() {
  check --config "$1" '[^/:][^:]*\.py(:.*)?' configs/demo.py
  [[ -f "$root/${1%%:*}" ]] || fail "--config=$1: no such file in $root"
}

# quoted WORD...: prints the words as one line of shell input.
quoted() {
  local line
  printf -v line ' %q' "$@"
  printf '%s' "${line:1}"
}

# run WORD...: runs the command; a dry run prints it.
run() {
  if ((dry_run)); then
    printf '%s\n' "$(quoted "$@")" >&3
  else
    "$@"
  fi
}

# query ASSUMED WORD...: runs the command; a dry run prints it and outputs ASSUMED instead.
# errexit is off inside $(...). `|| return` keeps a failed command distinct from an empty output.
query() {
  local assumed="$1"
  shift
  run "$@" || return
  if ((dry_run)); then
    printf '%s' "$assumed"
  fi
}

# note WORD...: prints a status message to stderr; silent in a dry run.
note() {
  ((dry_run)) || printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}
