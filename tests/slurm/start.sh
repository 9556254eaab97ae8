#!/bin/sh
# Start a real Slurm on this machine: one controller, one node, for tests. Needs root and Debian or Ubuntu, in a
# container or a virtual machine that may be thrown away. It refuses where another Slurm is configured. Running it
# again is harmless. Prints "ready" when jobs can be submitted; "start.sh stop" ends what it started.
set -eu

declared_cpus=${SLURM_TEST_CPUS:-8}

fail() {
    echo "start.sh: $1" >&2
    exit 1
}

running() {
    [ -s "/run/$1.pid" ] && kill -0 "$(cat "/run/$1.pid")" 2>/dev/null
}

[ "$(id -u)" = 0 ] || fail "needs root"

configuration=/etc/slurm
mark="# Written by the tests of stellar-catalogue"
if [ -s "$configuration/slurm.conf" ] && ! grep -q "^$mark" "$configuration/slurm.conf"; then
    fail "$configuration/slurm.conf belongs to another Slurm"
fi

if [ "${1:-start}" = stop ]; then
    for daemon in slurmd slurmctld; do
        if running "$daemon"; then
            kill "$(cat "/run/$daemon.pid")"
        fi
    done
    exit 0
fi

if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v sbatch >/dev/null ||
    ! command -v munged >/dev/null; then
    command -v apt-get >/dev/null || fail "Slurm is not installed, and there is no apt-get to install it"
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        slurmctld slurmd slurm-client munge >&2
fi

mkdir -p "$configuration" /var/spool/slurmctld /var/spool/slurmd /var/log/slurm /run/munge /var/log/munge
host=$(hostname -s)

# Memory is declared below what there is, so that the node is never drained for having less.
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
cat >"$configuration/slurm.conf" <<END
$mark
ClusterName=stellar-test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
# What follows lets it run without control groups and accounting, which containers lack.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# More processors are declared than there are, so that several workers run.
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
InactiveLimit=0
KillWait=5
MinJobAge=60
SlurmctldTimeout=300
SlurmdTimeout=300
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$declared_cpus RealMemory=$memory State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
END

[ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 2>/dev/null
chown -R munge:munge /etc/munge /run/munge /var/log/munge /var/lib/munge
chmod 700 /etc/munge
chmod 400 /etc/munge/munge.key
chmod 755 /run/munge

munge -n </dev/null >/dev/null 2>&1 || setpriv --reuid=munge --regid=munge --clear-groups munged ||
    fail "munged does not start"
attempt=0
until munge -n </dev/null 2>/dev/null | unmunge >/dev/null 2>&1; do
    attempt=$((attempt + 1))
    [ "$attempt" -lt 30 ] || fail "munge does not answer"
    sleep 0.5
done

running slurmctld || slurmctld
running slurmd || slurmd
scontrol reconfigure >/dev/null 2>&1 || true

attempt=0
until [ "$(sinfo -h -o %T 2>/dev/null | head -n 1 | tr -d '*')" = idle ] ||
    [ "$(sinfo -h -o %T 2>/dev/null | head -n 1)" = mixed ]; do
    attempt=$((attempt + 1))
    if [ "$attempt" -ge 60 ]; then
        sinfo >&2 || true
        tail -n 20 /var/log/slurm/slurmctld.log /var/log/slurm/slurmd.log >&2 || true
        fail "the node does not become idle"
    fi
    scontrol update NodeName=localhost State=RESUME >/dev/null 2>&1 || true
    sleep 1
done
echo ready
