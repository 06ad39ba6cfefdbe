#!/usr/bin/env bash
# Starts a private SLURM of one node on the loopback device, for tests.  Everything that it writes lies in one folder
# ($SLURM_TEST_DIR), no file of the system is read or changed, and starting it twice does no harm.
#
#   scripts/slurm/start.sh [--install]     --install: fetch SLURM with apt-get where it is missing (Debian, root)
#   source "$(scripts/slurm/start.sh)"     the last line of the output names the file to source
#   scripts/slurm/stop.sh
#
# SLURM_TEST_DIR chooses the folder of the cluster, SLURM_TEST_PORT the first of two ports.  Jobs of the partition high
# preempt those of main, which have five seconds of grace, and of abrupt, which have none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=${SLURM_TEST_DIR:-/tmp/panoptic_occ_slurm_$(id -u)}
port=${SLURM_TEST_PORT:-16917}
user=$(id -un)
node=$(hostname -s)
packages=(slurmctld slurmd slurm-client munge)
export SLURM_CONF=$dir/slurm.conf

install_packages() {
  # Installed daemons must not start by themselves: they would use the system's folders and ports.
  local policy=/usr/sbin/policy-rc.d ours=0
  if [[ ! -e $policy ]]; then
    ours=1
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null
  if (( ours )); then rm -f "$policy"; fi
}

ready() { timeout 5 sinfo --noheader --format=%T | grep -Eq '^(idle|mixed|allocated|completing)$'; }

PATH=$PATH:/usr/sbin:/sbin
if ! type slurmctld slurmd sbatch munged &> /dev/null; then
  if [[ ${1:-} != --install ]]; then
    echo "error: SLURM is not installed; as root: apt-get install --no-install-recommends ${packages[*]}," \
      "or scripts/slurm/start.sh --install" >&2
    exit 1
  fi
  install_packages >&2
fi
if [[ -f $dir/env.sh ]] && ready; then
  echo "$dir/env.sh"
  exit
fi
if [[ -d $dir ]]; then SLURM_TEST_DIR=$dir "$here/stop.sh"; fi

rm -rf "$dir"
mkdir -p "$dir"/{bin,log,munge,spool,state}
chmod 755 "$dir" "$dir/munge"  # munged insists on a folder that clients can enter
cp "$here/sacct" "$dir/bin/sacct"
(umask 077 && head -c 128 /dev/urandom > "$dir/munge/key")

cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$(( port + 1 ))
SlurmUser=$user
SlurmdUser=$user
AuthInfo=socket=$dir/munge/socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
MailProg=/bin/true
# Plain processes: neither control groups nor accounting, which need rights and services of the system.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
# Ended jobs stay known for a day: the sacct beside this script asks the controller about them.
MinJobAge=86400
ReturnToService=2
# The node claims more processors and memory than the machine may have, so that jobs with the usual requests run.
SlurmdParameters=config_overrides
# A preempted job gets its own --signal; without this line it gets SIGTERM.
SlurmctldParameters=preempt_send_user_signal
NodeName=$node NodeAddr=127.0.0.1 CPUs=8 RealMemory=65536
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=5 State=UP
PartitionName=abrupt Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
CONF
# There are fewer processors than the jobs believe, and idle OpenMP threads that spin would make them many times as slow.
printf 'export SLURM_TEST_DIR=%q\nexport SLURM_CONF=%q\nexport PATH=%q:$PATH\nexport OMP_NUM_THREADS=1\n' \
  "$dir" "$SLURM_CONF" "$dir/bin" > "$dir/env.sh"

munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munged.pid" \
  --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed"
slurmctld -c
slurmd
for _ in $(seq 100); do
  if ready &> /dev/null; then
    echo "$dir/env.sh"
    exit
  fi
  sleep 0.1
done
echo "error: the node did not come up; the end of the logs:" >&2
tail -n 15 "$dir"/log/*.log >&2
exit 1
