#!/bin/sh
# Stops all nodes of this machine, at the same time.
# Exit status: 0 none runs; 1 one still does: what it says tells why.
here=$(dirname -- "$0")
jobs=
for node in "$here"/node*/; do
    (
        said=$("$node/stop.sh" 2>&1)
        status=$?
        echo "$(basename -- "$node"): $said"
        exit "$status"
    ) &
    jobs="$jobs $!"
done
status=0
for job in $jobs; do
    wait "$job" || status=1
done
exit "$status"
