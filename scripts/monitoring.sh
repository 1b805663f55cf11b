#!/bin/bash
# Runs Prometheus and Alertmanager from Debian's packages beside a server on this machine, with the
# files of monitoring/. They listen on loopback, keep their data under the folder given, and end with
# this script.
set -euo pipefail

data="${1:?monitoring.sh needs a folder for data}"
cd "$(dirname "$0")/.."
mkdir -p "$data"

alertmanager="$(command -v prometheus-alertmanager || command -v alertmanager)"
"$alertmanager" --config.file=monitoring/alertmanager.yml --storage.path="$data/alertmanager" \
    --web.listen-address=127.0.0.1:9093 --cluster.listen-address= --log.level=warn &
first=$!
prometheus --config.file=monitoring/prometheus.yml --storage.tsdb.path="$data/prometheus" \
    --storage.tsdb.retention.time=35d --web.listen-address=127.0.0.1:9090 --log.level=warn &
second=$!
stop() { kill "$first" "$second" 2>/dev/null || true; wait; }
trap stop EXIT
trap 'exit 0' INT TERM

answers() { python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$1" 2>/dev/null; }
for _ in $(seq 60); do
    if answers http://127.0.0.1:9090/-/ready && answers http://127.0.0.1:9093/-/ready; then break; fi
    # One that has ended will not answer any more.
    kill -0 "$first" "$second" 2>/dev/null || break
    sleep 0.5
done
# Debian's Prometheus has the older pages only, at a place of their own, and its Alertmanager has none.
pages=http://127.0.0.1:9090
if ! answers "$pages/alerts"; then pages="$pages/classic"; fi
cat <<END
Both watch http://127.0.0.1:7600 (an error about "target groups" is no more than a server that still starts).
What fires:      $pages/alerts      what is scraped: $pages/targets
What was told:   amtool alert query --alertmanager.url=http://127.0.0.1:9093
What it means:   http://127.0.0.1:7600/runbooks/NAME of the alert
Ctrl-C ends both.
END
wait -n
echo "one of the two has ended; see above" >&2
exit 1
