#!/usr/bin/env bash
# slurm_machine.sh GROUP [CONTROLLER...]: a machine of tests/slurm_cluster.py, in namespaces of its own.
#
# The environment has NAME, ADDRESS and DAEMON. The network cable (eth0) is plugged in by the caller.
set -eu
group=$1
shift
for controller in "$@"; do
    mkdir -p "/sys/fs/cgroup/$controller/$group"
    echo $$ >"/sys/fs/cgroup/$controller/$group/cgroup.procs"
done
export CONTROLLERS="$*"
exec unshare --net --uts --mount --propagation private --pid --cgroup --fork --kill-child bash -c '
    set -eu
    hostname "$NAME"
    mount -t proc proc /proc
    if [ -n "$CONTROLLERS" ]; then # what Slurm sees as the root of each hierarchy is our group
        mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
        for controller in $CONTROLLERS; do
            mkdir "/sys/fs/cgroup/$controller"
            mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
        done
    fi
    ip link set lo up
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
    ip addr add "$ADDRESS/24" dev eth0
    ip link set eth0 up
    $DAEMON &
    # The first process of the machine outlives the daemon, and reaps whatever loses its parent.
    sleep infinity &
    wait
'
