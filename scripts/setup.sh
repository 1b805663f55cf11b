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
    # Grafana's schema, which the boards are held to, comes as TypeScript.
    need npm npm
    # Stories stop the server at its system calls, and look at its page in a real browser.
    need strace strace
    # Clouds of the stories are network namespaces whose wires fail; certificates are made by hand.
    need ip iproute2
    need nft nftables
    need openssl openssl
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

# Prometheus 3 beside the one that is installed, for the stories that ask both: unpacked, not installed,
# so that the system stays as it is. Debian has it in its unstable suite, which keeps one version only:
# so this takes the newest.
fetch_prometheus_3() {
    if [ -x "$1/usr/bin/prometheus" ] && [ -x "$1/usr/bin/promtool" ]; then return 0; fi
    local repo work apt
    # From wherever this machine gets its Debian.
    repo="$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' \
        | awk '$1 == "Debian" && $2 !~ /security/ && !found { print $2; found = 1 }')"
    if [ -z "$repo" ]; then say "apt knows no Debian repository, so there is no Prometheus 3"; return 0; fi
    say "unpacking Prometheus 3 from Debian unstable at $1"
    work="$(mktemp -d)"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/state" "$1"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $repo unstable main" \
        >"$work/sources.list"
    apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::Etc::preferencesparts=/dev/null -o "Dir::State=$work/state" -o "Dir::State::lists=$work/lists"
        -o Dir::State::status=/var/lib/dpkg/status -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
    if "${apt[@]}" update && (cd "$work" && "${apt[@]}" download prometheus promtool); then
        for package in "$work"/*.deb; do dpkg -x "$package" "$1"; done
    else
        say "Prometheus 3 could not be fetched; the stories that want it will fail and say so"
    fi
    rm -rf "$work"
}

fetch_grafana_schema() {
    local wanted
    wanted="$(dirname "$0")/../grafana/schema/package.json"
    if cmp -s "$wanted" "$1/package.json" && [ -e "$1/.done" ]; then return 0; fi
    say "installing Grafana's schema, of each version that the boards are for, at $1"
    mkdir -p "$1"
    cp "$wanted" "$1/package.json"
    if npm install --prefix "$1" --silent --no-audit --no-fund --no-package-lock --ignore-scripts; then
        touch "$1/.done"
    else
        say "Grafana's schema could not be fetched; the test that wants it will fail and say so"
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
if [ -n "$venv" ]; then
    make_venv "$venv"
    fetch_prometheus_3 "$(dirname "$venv")/prometheus-3"
    fetch_grafana_schema "$(dirname "$venv")/grafana-schema"
fi
