#!/bin/bash
# Prints where the server of a config.yaml will be found. Only for people: the server reads its file itself.
set -euo pipefail
listen=$(sed -nE 's/^.*[{[:space:]]listen:[[:space:]]*"?([0-9A-Za-z.:]+)"?.*$/\1/p' "${1:?which file}" | head -n 1)
echo
echo "Rollcall: http://${ROLLCALL_SERVER__LISTEN:-${listen:-127.0.0.1:7600}} (stop with Ctrl-C)"
echo
