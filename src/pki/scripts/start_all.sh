#!/bin/sh
# Starts all nodes of this machine, at the same time.
# Exit status: 0 all are up; 1 one is not: what it says tells why.
here=$(dirname -- "$0")
jobs=
for node in "$here"/node*/; do
    (
        said=$("$node/start.sh" 2>&1)
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
