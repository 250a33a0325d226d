#!/usr/bin/env bash
# Runs a Slurm on this machine until standard input ends: bash tests/slurm/one_node.sh
#
# Prints the path of slurm.conf once the node accepts jobs. Slurm's commands need it in the variable SLURM_CONF.
# The one node has two CPU cores and one GPU (/dev/null: Slurm counts it, and no process uses it). The daemons run as
# this user, in a temporary folder. Slurm waits long for answers and for killed jobs, because the machine may be busy.
# At the end, also after an error or a signal, the daemons and jobs are killed and the folder is removed.
# Requires Debian's packages slurm-wlm and munge (tests/slurm/install.sh).
set -euo pipefail
PATH="$PATH:/usr/sbin"

folder="$(mktemp -d)"
export SLURM_CONF="$folder/slurm.conf" # the commands, daemons and jobs inherit it

# Prints the ids of the processes that have SLURM_CONF in their environment or an open file in the folder.
# slurmstepd overwrites its environment, but its log is open. The programs below must not find themselves.
processes() (
  unset SLURM_CONF
  {
    grep --files-with-matches --null-data --line-regexp --fixed-strings --no-messages \
      "SLURM_CONF=$folder/slurm.conf" /proc/[0-9]*/environ
    find /proc/[0-9]*/fd -lname "$folder/*" 2>/dev/null
  } | cut -d / -f 3 | sort --unique
)

# Kills all processes of this Slurm and removes its files.
stop() {
  local status=$? pids=()
  trap '' INT TERM HUP
  if ((status)); then
    tail --lines=20 "$folder"/logs/* >&2 || true
  fi
  for _ in {1..100}; do # again: a process may have started another one
    mapfile -t pids < <(processes)
    ((${#pids[@]})) || break
    kill -KILL "${pids[@]}" 2>/dev/null || true
    sleep 0.1
  done
  rm -rf "$folder"
  if ((${#pids[@]})); then
    echo "error: these processes of Slurm do not end: ${pids[*]}" >&2
    status=1
  fi
  exit "$status"
}

# free_port: prints a TCP port on which no process of this machine listens.
free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)) && (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  printf '%s' "$port"
}

write_configuration() {
  cat >"$SLURM_CONF" <<END_OF_FILE
ClusterName=one_node
SlurmctldHost=localhost
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MessageTimeout=100
KillWait=300
ReturnToService=2
SlurmdParameters=config_overrides
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/logs/jobs
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/logs/slurmctld
SlurmdLogFile=$folder/logs/slurmd
NodeName=localhost CPUs=2 RealMemory=1000 Gres=gpu:1
PartitionName=all Nodes=localhost Default=YES
END_OF_FILE
  printf 'Name=gpu File=/dev/null\n' >"$folder/gres.conf"
}

# Starts the daemons, which continue in the background, and waits until the node accepts jobs.
start() {
  local state
  chmod 711 "$folder" # munged requires that all users reach its socket
  mkdir "$folder"/{logs,state,spool}
  write_configuration
  (umask 077 && head --bytes=1024 /dev/urandom >"$folder/munge.key")
  munged --key-file="$folder/munge.key" --seed-file="$folder/munge.seed" --socket="$folder/munge.socket" \
    --pid-file="$folder/munge.pid" --log-file="$folder/logs/munged"
  slurmctld -c
  slurmd
  for _ in {1..300}; do
    state="$(sinfo --noheader --format=%T 2>&1)" || true
    [[ "$state" != idle ]] || return 0
    sleep 0.1
  done
  echo "error: the Slurm node is not idle after 30 s: $state" >&2
  return 1
}

trap stop EXIT
trap 'exit 143' INT TERM HUP
start >&2
echo "$SLURM_CONF"
while read -r; do :; done
