#!/usr/bin/env bash
# Submits the job to GKE, by kubectl or by xpk, and watches it: a JobSet in both cases.
#   bash run.sh [watch | stop]
# The cluster does the restarts; the job does not need this machine, and `watch` takes up the watch again.
# Exit codes: 0 done; 2 a mistake of the caller; 1 the job failed, or was restarted as often as allowed; 75 stopped, or nobody answers.
set -euo pipefail

# --- settings
name=          # of the job
scheduler=gke  # or xpk
namespace=default
hosts=1
staging=       # gs://..., where pods of gke fetch the bundle
create_flags=()
pass_env=      # variables of this shell that the run needs
poll=30        # seconds
patience=1800  # seconds without an answer
# --- end of settings

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$here/logs"

ours() {
    kubectl --namespace="$namespace" "$@"
}

submit() {
    local variable
    for variable in ${pass_env//,/ }; do
        [[ -n ${!variable:-} ]] || { echo "error: the run needs $variable; export it first" >&2 && exit 2; }
    done
    rm -f "$here"/logs/host_*.log "$here/logs/.since"
    if [[ $scheduler == xpk ]]; then
        xpk workload create "${create_flags[@]}" --script-dir="$here/bundle" --env-file="$here/xpk.env"
        return
    fi
    gcloud storage cp "$here/bundle/code.tar.gz" "$here/bundle/on_host.sh" "$here/bundle/hosts.env" "$staging/$name/"
    if [[ -n $pass_env ]]; then # through pipes: the values stand in no file and no command line here
        for variable in ${pass_env//,/ }; do
            printf '%s=%s\n' "$variable" "${!variable}"
        done | ours create secret generic "$name-env" --from-env-file=/dev/stdin --dry-run=client -o yaml | ours apply -f -
    fi
    ours create -f "$here/jobset.yaml"
}

# save_logs: adds to logs/host_I.log what the pods wrote since the last time; a line may come twice where a second was cut in two.
save_logs() {
    local host now since=()
    [[ ! -f $here/logs/.since ]] || since=("--since-time=$(<"$here/logs/.since")")
    now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    for ((host = 0; host < hosts; host++)); do
        ours logs --selector="jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=$host" --tail=-1 \
            ${since[@]+"${since[@]}"} >>"$here/logs/host_$host.log" 2>/dev/null || true # a pod that is not there yet
    done
    echo "$now" >"$here/logs/.since"
    tail -qn 1 "$here"/logs/host_*.log
}

watch() {
    local silent=0 said
    while [[ ! -f $here/stopped ]]; do
        if said=$(ours get jobset "$name" \
            -o jsonpath='{range .status.conditions[?(@.status=="True")]}{.type}={.reason} {end}restarts={.status.restarts}' 2>"$here/logs/kubectl.txt"); then
            silent=0
            date "+%F %T $name: $said"
            save_logs
            case $said in
                *Completed=*) return 0 ;;
                *Failed=FailJobSetFailurePolicyAction*) return 2 ;;
                *Failed=*) return 1 ;;
            esac
        else
            silent=$((silent + poll))
            echo "no answer for $silent s: $(tail -n 1 "$here/logs/kubectl.txt")"
            ((silent < patience)) || return 75
        fi
        sleep "$poll"
    done
    return 75
}

case ${1:-all} in
    all)
        rm -f "$here/stopped"
        submit
        ;;
    watch) rm -f "$here/stopped" ;;
    stop)
        touch "$here/stopped"
        ours delete jobset "$name"
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
