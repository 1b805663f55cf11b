#!/bin/bash
# Installs what is missing, says so, and is quick when nothing is.
#   setup.sh run              what the server and its workers need
#   setup.sh monitoring       what watches a server
#   setup.sh run test VENV    also what the tests need, with a Python environment at VENV
set -euo pipefail

# What the Python SDK, the workers of the documentation and the export of traces are tested with, pinned.
requirements="$(dirname "$0")/../workers/sdk-python/requirements-dev.txt"

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

packages=()
need() { # need COMMAND PACKAGE...: the command's packages, unless it is there
    if ! has "$1"; then packages+=("${@:2}"); fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        # Without a terminal nobody could type a password.
        if [ -t 0 ]; then sudo "$@"; else sudo -n "$@"; fi
    else
        fail "please install as root: apt-get install ${packages[*]}"
    fi
}

install_packages() {
    [ "${#packages[@]}" -gt 0 ] || return 0
    has apt-get || fail "this is not a Debian machine; please install the like of: ${packages[*]}"
    say "installing Debian packages: ${packages[*]}"
    # These packages would start servers of their own, where only their programs are wanted.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # A source that is away is no reason to stop: what is wanted may be in the lists already.
    as_root apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

for_running() {
    has cargo || fail "no cargo on the PATH: install a Rust toolchain first (rustup, stable)"
    need cc build-essential
    # The sandbox worker isolates with bubblewrap and runs the system's Python.
    need bwrap bubblewrap
    if [ ! -x /usr/bin/python3 ]; then packages+=(python3); fi
    # What `package.install` runs, in a sandbox as well.
    if ! /usr/bin/python3 -I -c 'import pip' >/dev/null 2>&1; then packages+=(python3-pip); fi
}

for_monitoring() {
    need prometheus prometheus
    need amtool prometheus-alertmanager
}

for_testing() {
    for_monitoring
    need docker-compose docker-compose
    # Stories stop the server at its system calls, and look at its page in a real browser.
    need strace strace
    need chromium chromium
    # Parts of CPython's own tests are run in the sandbox.
    if ! /usr/bin/python3 -I -c 'import test.test_bisect' >/dev/null 2>&1; then
        local version
        version="$(/usr/bin/python3 -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo 3)"
        packages+=("libpython$version-testsuite")
    fi
    if [ ! -x "$1/bin/python3" ] && ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
        packages+=(python3 python3-venv)
    fi
}

make_venv() {
    local stamp="$1/.requirements"
    cmp -s "$requirements" "$stamp" && return 0
    say "making a Python environment with the packages of $requirements at $1"
    mkdir -p "$(dirname "$1")"
    python3 -m venv --clear "$1"
    "$1/bin/python3" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
    cp "$requirements" "$stamp"
}

venv=""
while [ "$#" -gt 0 ]; do
    case "$1" in
        run) for_running ;;
        monitoring) for_monitoring ;;
        test) venv="${2:?setup.sh test needs a path}"; for_testing "$venv"; shift ;;
        *) fail "unknown word: $1" ;;
    esac
    shift
done
install_packages
if [ -n "$venv" ]; then make_venv "$venv"; fi
