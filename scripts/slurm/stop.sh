#!/usr/bin/env bash
# Cancels the jobs of the private SLURM and stops its daemons, each by the process number in its own file.
set -uo pipefail
dir=${SLURM_TEST_DIR:-/tmp/panoptic_occ_slurm_$(id -u)}
export SLURM_CONF=$dir/slurm.conf

running() {  # the daemon's process number, if it is alive; an ended process that nobody has waited for is not
  local pid
  pid=$(cat "$dir/$1.pid" 2> /dev/null) || return 1
  [[ $(cat "/proc/$pid/comm" 2> /dev/null) == "$1" ]] || return 1
  grep -Eqs '^State:[[:space:]]+[^ZX]' "/proc/$pid/status" || return 1
  echo "$pid"
}

if running slurmctld > /dev/null; then
  timeout 5 scancel --user="$(id -un)" 2> /dev/null
  for _ in $(seq 60); do
    [[ -z $(timeout 5 squeue --noheader 2> /dev/null) ]] && break
    sleep 0.2
  done
fi
for daemon in slurmd slurmctld munged; do
  pid=$(running "$daemon") || continue
  kill "$pid"
  for _ in $(seq 100); do
    running "$daemon" > /dev/null || break
    sleep 0.1
  done
  if running "$daemon" > /dev/null; then kill -9 "$pid"; fi
done
exit 0
