# Sourced by the other scripts: make_environment FILE... makes .venv, installs the requirement files and activates it.
# A stamp of the files' contents skips what is already installed. While there is no .venv, PYTHON chooses the
# interpreter; without it, python3 or the newest that TensorFlow has a package for.

make_environment() {
  local root venv stamp wanted python file
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  venv="$root/.venv"
  stamp="$venv/installed.txt"
  wanted="$(cd "$root" && cat "$@")" || return
  if ! _suits "$venv/bin/python" || [[ ! -f "$stamp" || "$(cat "$stamp")" != *"$wanted"* ]]; then
    if ! _suits "$venv/bin/python" || ! _has_pip "$venv"; then
      [[ ! -e "$venv" ]] || echo "removing .venv, which has no Python 3.11 to 3.13 with pip"
      rm -rf "$venv" # before the choice, for it may be what `python3` is
      python="$(_choose_python)" || return
      _make_venv "$python" "$venv" || return
    fi
    echo "installing $* into .venv ..."
    for file in "$@"; do
      "$venv/bin/python" -m pip install --quiet --requirement "$root/$file" || return
    done
    printf '%s\n' "$wanted" >"$stamp"
  fi
  # shellcheck source=/dev/null
  source "$venv/bin/activate"
}

# _version PYTHON: such as 3.12; nothing where it does not run (pyenv has names that only tell so).
_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# _suits PYTHON: whether the requirements can be installed for it.
_suits() {
  case "$(_version "$1")" in
    3.11 | 3.12 | 3.13) ;;
    *) return 1 ;;
  esac
}

# _has_pip VENV: whether it has pip, or Python can bring it (uv leaves it out).
_has_pip() {
  "$1/bin/python" -m pip --version >/dev/null 2>&1 || "$1/bin/python" -m ensurepip >/dev/null 2>&1
}

# _choose_python: prints which interpreter .venv is made with; one line on stderr where none will do.
_choose_python() {
  local name version found="" names=(python3 python3.13 python3.12 python3.11)
  [[ -z "${PYTHON:-}" ]] || names=("$PYTHON")
  for name in "${names[@]}"; do
    if _suits "$name"; then
      printf '%s\n' "$name"
      return
    fi
    version="$(_version "$name")"
    [[ -z "$version" ]] || found="$found${found:+, }$name is $version"
  done
  printf 'error: Python 3.11 to 3.13 is needed (what JAX and TensorFlow share), but %s; set PYTHON, e.g. %s\n' \
    "${found:-${PYTHON:-python3} does not run}" "PYTHON=python3.12 bash $0" >&2
  return 1
}

# _make_venv PYTHON VENV: a new environment with pip, also where Python comes without ensurepip (Debian, Colab).
_make_venv() {
  local said why version
  said="$("$1" -m venv "$2" 2>&1)" && return
  rm -rf "$2"
  if "$1" -m venv --without-pip "$2" >/dev/null 2>&1 &&
    "$1" -m pip --python "$2/bin/python" install --quiet pip >/dev/null 2>&1; then
    return
  fi
  rm -rf "$2"
  version="$(_version "$1")"
  why="$(tail -n 1 <<<"$said")"
  if ! "$1" -c 'import ensurepip' 2>/dev/null; then
    why="install its venv package, e.g. sudo apt install python$version-venv"
  fi
  printf 'error: %s (Python %s) cannot make .venv: %s\n' "$1" "$version" "$why" >&2
  return 1
}
