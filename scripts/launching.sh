# shellcheck shell=bash
# Sourced by the launchers: how they refuse bad arguments, and how they run, print and quote commands.
# `dry_run` is 1 where commands are only printed; the launchers set it before the first command.

dry_run=0
exec 3>&1 # where a dry run prints, even from inside $(...)
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# What is sent to other machines is put together here.
# shellcheck disable=SC2034 # the launchers use it
staging="${XDG_CACHE_HOME:-$HOME/.cache}/dist_jax/launch"

# fail WORD...: ends the launcher with one line on stderr and status 2.
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# unknown_argument ARGUMENT: refuses it, and says how options are written.
unknown_argument() {
  fail "unknown argument '$1': options are written --name=value, flags of dist_jax.main follow -- (see --help)"
}

# check OPTION VALUE PATTERN EXAMPLE: refuses a value that the extended regular expression does not match as a whole.
check() {
  [[ -n "$2" ]] || fail "$1 is missing, e.g. $1=$4 (see --help)"
  [[ "$2" =~ ^($3)$ ]] || fail "$1='$2' cannot be; it looks like $1=$4"
}

# check_place NAME ZONE PROJECT: checks them, as Google has them; `where` holds gcloud's flags for the last two.
check_place() {
  check --name "$1" '[a-z][a-z0-9-]{0,37}[a-z0-9]' my-run
  check --zone "$2" '[a-z]+-[a-z]+[0-9]+-[a-z0-9]+' us-east5-b
  [[ -z "$3" ]] || check --project "$3" '([a-z0-9.-]+:)?[a-z][a-z0-9-]+' my-project
  # shellcheck disable=SC2034 # the launchers use it
  where=(--zone="$2" ${3:+"--project=$3"})
}

# check_training TYPE CONFIG WORKDIR RESTARTS: what the launchers for TPUs need to know of a run.
check_training() {
  check --type "$1" '[a-z0-9]+-[0-9]+' v5litepod-64
  check_config "$2"
  check --workdir "$3" 'gs://.+' gs://bucket/run
  check --restarts "$4" '[0-9]+' 100
}

# check_config FILE: refuses a configuration that is not a file of this checkout, for the checkout is what is sent.
check_config() {
  check --config "$1" '[^/].*\.py' configs/demo.py
  [[ -f "$root/$1" ]] || fail "--config=$1: no such file in $root"
}

# quoted WORD...: the words as one line that a bash reads back as the same words.
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

# query ASSUMED WORD...: what the command prints, and its status; a dry run prints the command and answers ASSUMED.
# Within $(...) errexit is off, hence `|| return`: no answer must not look like an empty one.
query() {
  local assumed="$1"
  shift
  run "$@" || return
  if ((dry_run)); then
    printf '%s' "$assumed"
  fi
}

# note WORD...: tells the user something; a dry run shows nothing but commands.
note() {
  ((dry_run)) || printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}
