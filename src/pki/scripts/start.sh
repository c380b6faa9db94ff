#!/bin/sh
# Starts this node in the background, and waits until it is up or gone. AMOP names the program if it is not on the PATH.
# Exit status: 0 the node is up; its own if it ended; 1 if it is not up within 60 s.
@node.sh@
program=${AMOP:-amop}
case $program in
    /*) ;;
    */*) program=$OLDPWD/$program ;;
esac

# One that runs may be about to be up, or about to end.
while is_node "$pid"; do
    if is_node "$(cat amop.up 2>/dev/null)"; then
        echo "running already, pid $pid"
        exit 0
    fi
    look_again "pid $pid runs already, but is not up"
done
if ! command -v "$program" >/dev/null; then
    echo "there is no program $program: put amop on the PATH, or name it in AMOP" >&2
    exit 127
fi
true >>amop.log || exit 1
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
    look_again "pid $child runs, but is not up"
done
wait "$child"
status=$?
echo "the node has ended with status $status; $PWD/amop.log says:" >&2
tail -c "+$((logged + 1))" amop.log | tail -n 5 >&2
[ "$status" -ne 0 ] || status=1
exit "$status"
