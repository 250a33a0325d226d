# Sourced by the other scripts. make_environment FILE... creates .venv, installs the requirement files and activates it.
# .venv/installed.txt holds the contents of the installed files: unchanged files are not installed again.
# PYTHON selects the interpreter of a new .venv. Default: python3, or the newest version that TensorFlow supports.

make_environment() {
  local root venv stamp requirements python file
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  venv="$root/.venv"
  stamp="$venv/installed.txt"
  requirements="$(cd "$root" && cat "$@")" || return
  if ! _is_supported "$venv/bin/python" || [[ ! -f "$stamp" || "$(cat "$stamp")" != *"$requirements"* ]]; then
    if ! _is_supported "$venv/bin/python" || ! _has_pip "$venv"; then
      [[ ! -e "$venv" ]] || echo "removing .venv: it has no Python 3.11 to 3.13 with pip"
      rm -rf "$venv" # before the choice: `python3` may be its interpreter
      python="$(_choose_python)" || return
      _make_venv "$python" "$venv" || return
    fi
    echo "installing $* into .venv ..."
    for file in "$@"; do
      "$venv/bin/python" -m pip install --quiet --requirement "$root/$file" || return
    done
    printf '%s\n' "$requirements" >"$stamp"
  fi
  # shellcheck source=/dev/null
  source "$venv/bin/activate"
}

# _version PYTHON: prints the version, e.g. 3.12; nothing if it does not run (some pyenv commands only print an error).
_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# _is_supported PYTHON: true if the requirements can be installed for its version.
_is_supported() {
  case "$(_version "$1")" in
    3.11 | 3.12 | 3.13) ;;
    *) return 1 ;;
  esac
}

# _has_pip VENV: true if it has pip or ensurepip can install pip (uv environments have none).
_has_pip() {
  "$1/bin/python" -m pip --version >/dev/null 2>&1 || "$1/bin/python" -m ensurepip >/dev/null 2>&1
}

# _choose_python: prints the interpreter for .venv; if none is supported, prints one line to stderr and fails.
_choose_python() {
  local name version unsupported="" names=(python3 python3.13 python3.12 python3.11)
  [[ -z "${PYTHON:-}" ]] || names=("$PYTHON")
  for name in "${names[@]}"; do
    if _is_supported "$name"; then
      printf '%s\n' "$name"
      return
    fi
    version="$(_version "$name")"
    [[ -z "$version" ]] || unsupported="$unsupported${unsupported:+, }$name is $version"
  done
  printf 'error: JAX and TensorFlow need Python 3.11 to 3.13, but %s; set PYTHON, e.g. %s\n' \
    "${unsupported:-${PYTHON:-python3} does not run}" "PYTHON=python3.12 bash $0" >&2
  return 1
}

# _make_venv PYTHON VENV: creates an environment with pip, also if Python has no ensurepip (Debian, Colab).
_make_venv() {
  local output reason version
  output="$("$1" -m venv "$2" 2>&1)" && return
  rm -rf "$2"
  if "$1" -m venv --without-pip "$2" >/dev/null 2>&1 &&
    "$1" -m pip --python "$2/bin/python" install --quiet pip >/dev/null 2>&1; then
    return
  fi
  rm -rf "$2"
  version="$(_version "$1")"
  reason="$(tail -n 1 <<<"$output")"
  if ! "$1" -c 'import ensurepip' 2>/dev/null; then
    reason="install its venv package, e.g. sudo apt install python$version-venv"
  fi
  printf 'error: %s (Python %s) cannot create .venv: %s\n' "$1" "$version" "$reason" >&2
  return 1
}
