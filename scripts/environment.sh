# Sourced by the other scripts: make_environment FILE... makes .venv, installs the requirement files and activates it.
# A stamp of the files' contents skips what is already installed. PYTHON chooses the interpreter (3.11 or newer).

make_environment() {
  local root stamp wanted python="${PYTHON:-python3}"
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is not Python 3.11 or newer; set PYTHON to one that is, e.g. PYTHON=python3.12 bash $0" >&2
    return 1
  fi
  stamp="$root/.venv/installed.txt"
  wanted="$(cd "$root" && cat "$@")"
  if [[ ! -f "$stamp" || "$(cat "$stamp")" != *"$wanted"* ]]; then
    echo "installing $* into .venv ..."
    [[ -x "$root/.venv/bin/python" ]] || "$python" -m venv "$root/.venv"
    local file
    for file in "$@"; do
      "$root/.venv/bin/python" -m pip install --quiet --requirement "$root/$file"
    done
    printf '%s\n' "$wanted" >"$stamp"
  fi
  # shellcheck source=/dev/null
  source "$root/.venv/bin/activate"
}
