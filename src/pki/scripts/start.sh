#!/bin/sh
# Starts this node in the background, and waits until it is up or gone. AMOP names the program if it is not on the PATH.
# Exit status: 0 the node is up; its own if it ended; 1 if it is not up within 60 s.

program=${AMOP:-amop}
case $program in
    /*) ;;
    */*) program=$PWD/$program ;;
esac
CDPATH='' cd -- "$(dirname -- "$0")" || exit 1

# Whether a process is this node: it holds the file amop.pid open. A number in a file may be anybody's after a restart.
is_node() {
    case $1 in '' | *[!0-9]*) return 1 ;; esac
    for file in "/proc/$1/fd"/*; do
        [ "$file" -ef amop.pid ] && return 0
    done
    return 1
}

pid=$(cat amop.pid 2>/dev/null)
if is_node "$pid"; then
    echo "running already, pid $pid"
    exit 0
fi
if ! command -v "$program" >/dev/null; then
    echo "there is no program $program: put amop on the PATH, or name it in AMOP" >&2
    exit 127
fi
: >>amop.log || exit 1
logged=$(wc -c <amop.log)
nohup "$program" node -c config.ini --pid-file amop.pid --up-file amop.up >>amop.log 2>&1 </dev/null &
child=$!
tries=0
while :; do
    pid=$(cat amop.up 2>/dev/null)
    if is_node "$pid"; then
        echo "started, pid $pid, log in $PWD/amop.log"
        exit 0
    fi
    kill -0 "$child" 2>/dev/null || break
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then
        echo "pid $child runs, but is not up after 60 s: see $PWD/amop.log" >&2
        exit 1
    fi
    sleep 0.2
done
wait "$child"
status=$?
echo "the node has ended with status $status; $PWD/amop.log says:" >&2
tail -c "+$((logged + 1))" amop.log | tail -n 5 >&2
[ "$status" -ne 0 ] || status=1
exit "$status"
