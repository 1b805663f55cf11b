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

echo "Prometheus:   http://127.0.0.1:9090/alerts"
echo "Alertmanager: http://127.0.0.1:9093"
echo "Both watch http://127.0.0.1:7600; Ctrl-C ends them."
wait -n
echo "one of the two has ended; see above" >&2
exit 1
