CDPATH='' cd -- "$(dirname -- "$0")" || exit 1

# Whether a process is this node: it holds the file amop.pid open. A number in a file may be anybody's after a restart.
is_node() {
    case $1 in '' | *[!0-9]*) return 1 ;; esac
    for file in "/proc/$1/fd"/*; do
        [ "$file" -ef amop.pid ] && return 0
    done
    return 1
}

# Another look at what is waited for, which is said after the last.
tries=0
look_again() {
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then
        echo "$1 after 60 s: see $PWD/amop.log" >&2
        exit 1
    fi
    sleep 0.2
}

pid=$(cat amop.pid 2>/dev/null)
