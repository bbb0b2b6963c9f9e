#!/usr/bin/env bash
# Says where a Chromium is; on Debian and Ubuntu it installs one when there is none. Told by: CHROMIUM=<program>.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }
here() { # Ubuntu's chromium-browser may be a script that only names a snap, so each is asked
  local name path
  for name in ${CHROMIUM:-chromium chromium-browser google-chrome}; do
    if path=$(command -v "$name") && "$path" --version >/dev/null 2>&1; then echo "$path"; return 0; fi
  done
  return 1
}

if here; then exit 0; fi
[ -z "${CHROMIUM:-}" ] || fail "CHROMIUM is '$CHROMIUM', which does not start; say CHROMIUM=<program>, or leave it out"
command -v apt-get >/dev/null || fail "there is no Chromium and no apt-get here; install Chromium or Chrome and say CHROMIUM=<program>"
[ "$(id -u)" = 0 ] || fail "there is no Chromium and apt-get needs root; run 'sudo apt-get install chromium' once"
echo "chromium: installing Debian's (about 300 MB on disk, a minute)" >&2
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null ||
  fail "apt-get could not install chromium; see its lines above, and if this machine is offline say CHROMIUM=<program>"
here || fail "apt-get installed a chromium that does not start; install Chrome and say CHROMIUM=<program>"
