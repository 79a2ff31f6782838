# shellcheck shell=bash
# Source me. Makes the environments that the verbs in scripts/ run in; bash 3.2 is enough.
#
#   find_python                     prints an interpreter that fits, or says how to get one
#   ensure_environment FOLDER LOCK  makes FOLDER a venv with exactly what LOCK names; returns
#                                   at once if it is that already
#
# FOLDER/.ready says what an environment was made from; without it, or with FOLDER/.unfinished,
# the next run mends it. Everything that is said goes to stderr.

say() { printf 'invariant: %s\n' "$*" >&2; }

# version_of PYTHON: its version as one number (3013000) if it runs and can make venvs.
version_of() {
  "$1" -I -c '
import sys
if sys.version_info < (3, 12):
    sys.exit(1)
import ensurepip, ssl, venv
print("%d%03d%03d" % sys.version_info[:3])' 2>/dev/null </dev/null
}

# candidates: interpreters to try, the best first. One that is on the PATH may still not run:
# the shims of pyenv are there for versions that are not switched on.
candidates() {
  local name root
  for name in python3.13 python3.12 python3 python python3.14; do
    command -v "$name" || true
  done
  for root in "${PYENV_ROOT:-}" "$(pyenv root 2>/dev/null || true)" "${HOME:-}/.pyenv"; do
    [ -d "$root/versions" ] || continue
    for name in "$root"/versions/*/bin/python; do
      [ -x "$name" ] && printf '%s\n' "$name"
    done | sort -r
  done
  if command -v uv >/dev/null 2>&1; then
    uv python find '>=3.12,<3.14' 2>/dev/null || true
  fi
}

# first_fit LEAST BELOW: the first candidate in this range of versions.
first_fit() {
  local python version
  while IFS= read -r python; do
    version=$(version_of "$python") || continue
    if [ "$version" -ge "$1" ] && [ "$version" -lt "$2" ]; then
      printf '%s\n' "$python"
      return 0
    fi
  done < <(candidates)
  return 1
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    if version_of "$PYTHON" >/dev/null; then
      command -v "$PYTHON"
      return 0
    fi
    say "PYTHON=$PYTHON does not run, is older than 3.12, or lacks the venv module."
    return 1
  fi
  first_fit 3012000 3014000 && return 0
  # invariant-ai needs a Pillow that has no wheel for 3.14: it may have to be compiled.
  first_fit 3014000 4000000 && return 0
  say "no Python 3.12 or newer was found that runs and has the venv module."
  say "Get one (apt install python3 python3-venv, brew install python@3.13, pyenv install 3.13,"
  say "uv python install 3.13, or from python.org), or name yours: PYTHON=/path/to/python3 $0"
  return 1
}

# is_ready FOLDER LOCKSUM: no process but what the caller paid for already.
is_ready() {
  local sum='' folder='' python=''
  [ -x "$1/bin/python" ] && [ ! -e "$1/.unfinished" ] && [ -r "$1/.ready" ] || return 1
  { read -r sum && IFS= read -r folder && IFS= read -r python; } <"$1/.ready" || return 1
  [ "$sum" = "$2" ] && [ "$folder" = "$1" ] || return 1
  [ -z "${PYTHON:-}" ] || [ "$(command -v "$PYTHON")" = "$python" ]
}

ensure_environment() {
  local sum
  sum=$(cksum <"$2")
  sum=${sum// /-}
  is_ready "$1" "$sum" || make_environment "$1" "$2" "$sum"
}

# make_environment FOLDER LOCK LOCKSUM: one at a time. A subshell, so that the lock goes with it
# and is not handed on to what the caller starts afterwards.
make_environment() (
  set -euo pipefail
  if [ -L "$1" ]; then
    say "$1 is a link: what it leads to may be somebody else's, so it is not set up; remove the link"
    exit 1
  fi
  hold_lock "$1.lock"
  if is_ready "$1" "$3"; then
    exit 0 # somebody else has just done it
  fi
  python=$(find_python)
  log=$1/setup.log
  name=${1##*/}
  say "setting up $name with $("$python" -V 2>&1) ($python); this takes a minute ..."
  started=$SECONDS
  if can_be_mended "$1" "$python"; then
    : >"$1/.unfinished"
  else
    mkdir -p "$1"
    : >"$1/.unfinished"
    # --clear takes the mark away with the rest, and an empty folder is cleared next time.
    "$python" -I -m venv --clear "$1"
    : >"$1/.unfinished"
  fi
  rm -f "$1/.ready"
  if ! PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$1/bin/python" -I -m pip install \
    --no-input --require-hashes -r "$2" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    say "could not set up $name; all that pip said is in $log"
    exit 1
  fi
  printf '%s\n%s\n%s\n' "$3" "$1" "$python" >"$1/.ready.new"
  mv -f "$1/.ready.new" "$1/.ready"
  rm -f "$1/.unfinished"
  say "$name is ready ($((SECONDS - started)) s)"
)

# can_be_mended FOLDER PYTHON: a whole venv, made in this place, of this version of Python. Its
# programs name it by its path, so one that was moved is none.
can_be_mended() {
  [ ! -e "$1/.unfinished" ] && [ -x "$1/bin/python" ] && [ -r "$1/pyvenv.cfg" ] &&
    grep -q -F -x "home = $(dirname "$(real_path "$2")")" "$1/pyvenv.cfg" &&
    grep -q -F -- "-m venv" "$1/pyvenv.cfg" && grep -q -F -- " $1" "$1/pyvenv.cfg" &&
    "$1/bin/python" -I -m pip --version >/dev/null 2>&1
}

# real_path PYTHON: behind links and shims.
real_path() { "$1" -I -c 'import sys; print(sys._base_executable or sys.executable)'; }

# hold_lock FILE: until this (sub)shell ends.
hold_lock() {
  if command -v flock >/dev/null 2>&1; then
    exec 9>"$1"
    flock 9
    return
  fi
  local owner nameless=0
  while ! mkdir "$1.d" 2>/dev/null; do
    owner=$(cat "$1.d/pid" 2>/dev/null || true)
    [ -n "$owner" ] || nameless=$((nameless + 1))
    if { [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; } || [ "$nameless" -gt 25 ]; then
      rm -rf "$1.d" # its owner was killed
      nameless=0
    else
      sleep 0.2
    fi
  done
  # shellcheck disable=SC2064 # the name as it is now
  trap "rm -rf '${1//\'/\'\\\'\'}.d'" EXIT
  sh -c 'echo $PPID' >"$1.d/pid"
}
