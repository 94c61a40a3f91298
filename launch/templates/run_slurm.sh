#!/usr/bin/env bash
# Submits job.sbatch, and watches it until it has left the queue.
#   bash run.sh [watch | stop]
# Exit codes: 0 done; 2 a mistake of the caller; else the code of a host, or 1 where none is known.
set -euo pipefail

# --- settings
pass_env=      # variables of this shell that the run needs
poll=30        # seconds
# --- end of settings

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

watch() {
    local job state code=0 host
    job=$(<"$here/job_id")
    while state=$(squeue --noheader --jobs="$job" --format=%T 2>/dev/null) && [[ -n $state ]]; do
        date "+%F %T job $job: $state"
        tail -qn 1 "$here"/logs/host_*.log 2>/dev/null || true
        sleep "$poll"
    done
    compgen -G "$here/logs/host_*.state" >/dev/null || return 1
    for host in "$here"/logs/host_*.state; do
        case $(<"$host") in
            'exit 0') ;;
            'exit 2') return 2 ;;
            exit\ *) code=$(sed 's/exit //' "$host") ;;
            *) code=1 ;; # it was killed before it could say
        esac
    done
    return "$code"
}

case ${1:-all} in
    all)
        for variable in ${pass_env//,/ }; do
            [[ -n ${!variable:-} ]] || { echo "error: the run needs $variable; export it first" >&2 && exit 2; }
        done
        mkdir -p "$here/logs"
        sbatch --parsable "$here/job.sbatch" | cut -d';' -f1 >"$here/job_id"
        ;;
    watch) ;;
    stop) # as at the time limit the hosts save; nothing queues the job again
        scontrol update "JobId=$(<"$here/job_id")" Requeue=0
        scancel --signal=TERM "$(<"$here/job_id")"
        exit
        ;;
    *)
        echo "usage: bash run.sh [watch | stop]" >&2
        exit 2
        ;;
esac
code=0
watch || code=$?
echo "the run ended with exit code $code; logs: $here/logs"
exit "$code"
