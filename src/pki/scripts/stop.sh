#!/bin/sh
# Stops this node, and waits until it has.
# Exit status: 0 it does not run; 1 it still does.
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
if ! is_node "$pid"; then
    # What others may not look at could be this node, run by another user.
    case $pid in '' | *[!0-9]*) arguments= ;; *) arguments=$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) ;; esac
    case $arguments in
        *" node -c config.ini --pid-file amop.pid "*)
            if ! ls "/proc/$pid/fd" >/dev/null 2>&1; then
                echo "pid $pid seems to be this node, run by another user: stop it as that user" >&2
                exit 1
            fi
            ;;
    esac
    echo "not running"
    exit 0
fi
kill "$pid" || exit 1
tries=0
while is_node "$pid"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then
        echo "pid $pid has not ended within 60 s: see $PWD/amop.log" >&2
        exit 1
    fi
    sleep 0.2
done
echo "stopped"
