#!/bin/sh
# @what@
here=$(dirname -- "$0")
jobs=
for node in "$here"/node*/; do
    (
        said=$("$node/@script@" 2>&1)
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
