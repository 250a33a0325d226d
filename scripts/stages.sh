# Functions of the scripts that run all stages of an example. Sourced by quickstart.sh and rehearsal.sh.

fail() {
  echo "error: $1" >&2
  exit 1
}

# parse_arguments [--short] [--output DIR]: sets `short` (true or false) and `output` (empty without --output). A relative
# DIR belongs to the folder of the user, who may have started the script from elsewhere.
# shellcheck disable=SC2034 # the script that sources this file reads both
parse_arguments() {
  output=""
  short=false
  while (($#)); do
    case "$1" in
      --short) short=true ;;
      --output)
        (($# > 1)) || fail "--output needs a folder"
        output="$2"
        [[ "$output" == /* || "$OLDPWD" == "$PWD" ]] || output="$OLDPWD/$output"
        shift
        ;;
      *) fail "unknown argument $1; usage: bash scripts/$(basename "$0") [--short] [--output DIR]" ;;
    esac
    shift
  done
}

# stage TITLE: prints a title with the time since SECONDS was set to 0.
stage() {
  echo
  echo "== $1 (${SECONDS} s since the start)"
}

# run COMMAND...: prints a command and runs it.
run() {
  printf '$'
  printf ' %q' "$@"
  echo
  "$@"
}
