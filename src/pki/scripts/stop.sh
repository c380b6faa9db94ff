#!/bin/sh
# Stops this node, and waits until it has.
# Exit status: 0 it does not run; 1 it still does.
@node.sh@
if ! is_node "$pid"; then
    # What others may not look at could be this node, run by another user.
    case $pid in
        '' | *[!0-9]*) arguments= ;;
        *) arguments=$({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null) ;;
    esac
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
while is_node "$pid"; do
    look_again "pid $pid has not ended"
done
echo "stopped"
