#!/usr/bin/env bash
# Installs programs from Debian's or Ubuntu's packages, unless they are installed:
#
#   bash tests/install_packages.sh "PROGRAM ..." PACKAGE ...
#
# The packages start no service. Fails with one line if they cannot be installed: without root, sudo or apt-get, or if
# apt-get fails.
set -euo pipefail
PATH="$PATH:/usr/sbin"
policy=/usr/sbin/policy-rc.d # decides for Debian's packages whether they start services; status 101: no
read -ra programs <<<"$1"
packages=("${@:2}")

installed() {
  type "${programs[@]}" >/dev/null 2>&1
}

# fail REASON: prints one line to stderr and exits with status 1.
fail() {
  echo "error: cannot install ${packages[*]}: $1" >&2
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
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}"
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
installed || fail "the packages lack one of: ${programs[*]}"
