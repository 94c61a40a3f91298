#!/usr/bin/env bash
# Ships the bundle beside this file to all workers of a TPU VM, starts the run on each, and watches until it ends.
#   bash run_tpu_vm.sh [watch | logs | stop]
# The run does not need this machine: after Ctrl-C or a lost connection it goes on, and `watch` takes up the watch again.
# Exit codes: 0 done; 2 a mistake of the caller; 75 the workers cannot be reached, or stop again and again; else the code of a worker.
set -euo pipefail

# --- settings
name=          # of the job; its folder on the workers is launch/NAME
tpu=           # the TPU VM
gcloud_flags=()
pass_env=      # variables of this shell that the run needs
restarts=20    # how often workers that were lost, or stopped, are started again from here
poll=30        # seconds
patience=600   # seconds without an answer from the workers
# --- end of settings

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$here/logs"

tpu_vm() {
    local verb=$1
    shift
    gcloud compute tpus tpu-vm "$verb" "$@" ${gcloud_flags[@]+"${gcloud_flags[@]}"}
}

on_all() {
    tpu_vm ssh "$tpu" --worker=all --command="$1"
}

ship() {
    on_all "mkdir -p launch/$name"
    tpu_vm scp "$here/bundle/code.tar.gz" "$here/bundle/on_host.sh" "$here/bundle/hosts.env" "$tpu:launch/$name/" --worker=all
}

# values: the passed variables as lines; they travel through ssh's input, and stand in no file and no command line.
values() {
    local variable
    for variable in ${pass_env//,/ }; do
        printf '%s=%s\n' "$variable" "${!variable}"
    done
}

start() {
    local worker starting=() pid
    for ((worker = 0; worker < workers; worker++)); do # each apart: one input cannot be read by all
        values | tpu_vm ssh "$tpu" --worker="$worker" --command="bash launch/$name/on_host.sh start" &
        starting+=($!)
    done
    for pid in "${starting[@]}"; do
        wait "$pid" || return 75
    done
}

# watch: until the run has ended on all workers; returns its exit code.
watch() {
    local silent=0 again=0 report states state verdict
    while [[ ! -f $here/stopped ]]; do
        if report=$(on_all "bash launch/$name/on_host.sh status" 2>"$here/logs/ssh.txt"); then
            silent=0
            date '+%F %T'
            echo "$report"
            states=$(sed -n 's/^host [0-9]* //p' <<<"$report")
            verdict=$(judge "$states")
            case $verdict in
                wait) ;;
                again)
                    # It may have been asked to stop since this look began: then what stopped shall stay so.
                    [[ ! -f $here/stopped ]] && ((++again <= restarts)) || return 75
                    start || true # whom it did not reach is seen at the next look
                    ;;
                *) return "$verdict" ;;
            esac
        else
            silent=$((silent + poll))
            echo "no answer for $silent s: $(tail -n 1 "$here/logs/ssh.txt")"
            ((silent < patience)) || return 75
        fi
        sleep "$poll"
    done
    return 75
}

# judge STATES: what they mean together: an exit code, `again` where some are to be started again, or `wait`.
judge() {
    local state done=0 verdict=wait
    while IFS= read -r state; do
        case $state in
            'exit 0') done=$((done + 1)) ;;
            'exit 75' | lost | absent) verdict=again ;;
            exit\ *)
                echo "${state#exit }"
                return
                ;;
        esac
    done <<<"$1"
    ((done < workers)) || verdict=0
    echo "$verdict"
}

stop() {
    on_all "bash launch/$name/on_host.sh stop"
}

logs() {
    local worker
    for ((worker = 0; worker < workers; worker++)); do
        tpu_vm scp "$tpu:launch/$name/logs/host_$worker.log" "$here/logs/" --worker="$worker" ||
            echo "worker $worker has no log" >&2
    done
}

for variable in ${pass_env//,/ }; do
    [[ ${1:-all} =~ ^(logs|stop)$ || -n ${!variable:-} ]] || { echo "error: the run needs $variable; export it first" >&2 && exit 2; }
done
workers=$(tpu_vm describe "$tpu" --format='value(networkEndpoints.len())')
[[ $workers =~ ^[1-9][0-9]*$ ]] || exit 75
case ${1:-all} in
    all)
        rm -f "$here/stopped"
        ship && start || exit 75
        ;;
    watch) rm -f "$here/stopped" ;;
    logs)
        logs
        exit
        ;;
    stop)
        touch "$here/stopped" # for a watch elsewhere, which would start them again
        stop
        exit
        ;;
    *)
        echo "usage: bash run_tpu_vm.sh [watch | logs | stop]" >&2
        exit 2
        ;;
esac
code=0
watch || code=$?
((code == 0 || code == 75)) || stop || true # a worker gave up for good: the others shall not wait for it
logs || true
echo "the run ended with exit code $code; logs: $here/logs"
exit "$code"
