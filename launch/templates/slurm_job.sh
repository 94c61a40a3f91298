#!/usr/bin/env bash
# --requeue: a preempted job, and one that lost a node, waits for new nodes and runs this file again. --signal: two minutes before the time
# limit every process of the steps gets SIGTERM, saves, and ends with 75; then this file queues the job again.
set -euo pipefail

# --- settings
out=           # the folder of bundle/ and logs/, seen by all nodes; SLURM runs a copy of this file from elsewhere
restarts=100
# --- end of settings

trap : TERM # SLURM may signal this shell, too: the steps end first
mkdir -p "$out/logs"
rm -f "$out"/logs/host_*.state
bash "$out/bundle/on_host.sh" install # once, for all nodes
code=0
srun --kill-on-bad-exit=1 bash "$out/bundle/on_host.sh" run || code=$?
# srun tells the highest code of all hosts, and ends the others when one has ended: a mistake of the caller may hide behind 75.
if grep -qsx 'exit 2' "$out"/logs/host_*.state; then
    exit 2
fi
case $code in
    0) exit 0 ;;
    75 | 137 | 143) # 128 + SIGKILL, SIGTERM
        if ((${SLURM_RESTART_COUNT:-0} < restarts)); then
            echo "exit code $code: queued again (${SLURM_RESTART_COUNT:-0} times before)"
            scontrol requeue "$SLURM_JOB_ID"
        fi
        ;;
esac
exit "$code"
