#!/usr/bin/env bash
# Makes an environment hold exactly what the locks name; does nothing when it does. `make install` is this.
#   launch/install.sh          the locked packages and this clone
#   launch/install.sh locks    the locked packages alone (for an image layer that does not change with the sources)
# Told by: ACCEL=cpu|gpu (else what the environment has, else what the machine has), VENV, PYTHON,
# TORCH_INDEX=<address of another index to find torch in>.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3} VENV=${VENV:-.venv} ACCEL=${ACCEL:-auto} TORCH_INDEX=${TORCH_INDEX:-}
python=$VENV/bin/python

say() { echo "install: $*" >&2; }
fail() { echo "error: $*" >&2; exit 2; }

case ${1:-all} in
  all | locks) ;;
  *) fail "launch/install.sh takes no word or 'locks', got '$1'" ;;
esac
case $ACCEL in
  cpu | gpu) ;;
  auto)
    if [ -f "$VENV/.accel" ]; then ACCEL=$(cat "$VENV/.accel")
    elif nvidia-smi -L >/dev/null 2>&1; then ACCEL=gpu
    else ACCEL=cpu; fi ;;
  *) fail "ACCEL is '$ACCEL'; say ACCEL=cpu or ACCEL=gpu, or leave it out to take what the machine has" ;;
esac

locks=("requirements/$ACCEL.lock" requirements/dev.lock)
digest() { cat "$@" | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16; }
locked=$VENV/.locked-$ACCEL-$(digest requirements/common.lock "${locks[@]}")
[ "${1:-all}" = locks ] || installed=$VENV/.installed-$(digest pyproject.toml <(pwd))
if [ -f "$locked" ] && { [ "${1:-all}" = locks ] || [ -f "$installed" ]; }; then exit 0; fi

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
if ! "$python" -m pip --version >/dev/null 2>&1; then
  command -v "$PYTHON" >/dev/null || fail "there is no $PYTHON; install Python 3.11 or newer, or say PYTHON=<path>"
  new_enough "$PYTHON" || fail "$PYTHON is $("$PYTHON" --version 2>&1); lfm4ads needs 3.11 or newer, say PYTHON=<path>"
  "$PYTHON" -m venv "$VENV" >&2 || fail "$PYTHON cannot make $VENV; on Debian and Ubuntu install python3-venv"
fi
new_enough "$python" || fail "$VENV holds $("$python" --version 2>&1); lfm4ads needs 3.11 or newer, remove it first"

count_packages() { # pip's own lines become one line that counts; without a terminal pip prints none
  awk -v total="$1" '
    /^(Collecting|Requirement already)/ { n++; printf "\r\033[Kinstall: %d of %d", n, total }
    /^Installing/ { printf "\r\033[Kinstall: unpacking" }
    END { if (n) printf "\r\033[K" }' >&2
}

if [ ! -f "$locked" ]; then
  count=$(cat requirements/common.lock "${locks[@]}" | grep -c '==')
  case $ACCEL in cpu) size="2 GB on disk, 3 minutes" ;; gpu) size="8 GB on disk, 10 minutes" ;; esac
  "$python" -m launch.check_install before "${locks[@]}"
  say "$count packages for $ACCEL into $VENV (about $size)"
  if [ -t 2 ]; then noise=--progress-bar=off; else noise=-qq; fi
  "$python" -m pip install $noise --no-deps "${locks[@]/#/--requirement=}" \
    ${TORCH_INDEX:+"--extra-index-url=$TORCH_INDEX"} | count_packages "$count"
  status=0
  "$python" -W ignore -m launch.check_install after "${locks[@]}" || status=$?
  if [ "$status" = 3 ]; then "$python" -m pip uninstall --quiet --yes torch >&2; fi
  if [ "$status" != 0 ]; then exit "$status"; fi
  rm -f "$VENV"/.locked-*
  echo "$ACCEL" >"$VENV/.accel"
  touch "$locked"
fi
if [ "${1:-all}" = all ] && [ ! -f "$installed" ]; then
  "$python" -m pip install -qq --no-deps --no-build-isolation --editable . >&2
  rm -f "$VENV"/.installed-*
  touch "$installed"
fi
say "done in $SECONDS s"
