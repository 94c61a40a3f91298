#!/usr/bin/env bash
# Asks for a TPU slice until it is there, runs on it (run_tpu_vm.sh beside this file), and asks anew when it was taken away.
#   bash run.sh                  bash run_tpu_vm.sh stop, from elsewhere, ends the run and this
# Started again, it goes on with the slice that is there, and the run on it. It leaves the slice when it ends: `gcloud compute tpus queued-resources delete`.
# Exit codes: 0 done; 2 a mistake of the caller; 1 the slice could not be had; else the code of the run.
set -euo pipefail

# --- settings
tpu=           # the slice; its queued resource is named like it
gcloud_flags=()
create_flags=()
recreate=20    # how often a slice that was taken away, or could not be had, is asked for again
faults=3       # how often a run that ended in a fault, on a slice that is still there, is started again
poll=30        # seconds
longest_wait=900
# --- end of settings

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$here/logs"

queued() {
    local verb=$1
    shift
    gcloud compute tpus queued-resources "$verb" "$tpu" ${gcloud_flags[@]+"${gcloud_flags[@]}"} "$@"
}

# state_of KIND: of the queued resource, or of the node itself; MISSING where there is none, UNKNOWN where nobody says.
state_of() {
    local said error=$here/logs/gcloud.txt
    if [[ $1 == node ]]; then
        said=$(gcloud compute tpus tpu-vm describe "$tpu" ${gcloud_flags[@]+"${gcloud_flags[@]}"} --format='value(state)' 2>"$error") || said=
    else
        said=$(queued describe --format='value(state.state)' 2>"$error") || said=
    fi
    if [[ -z $said ]]; then
        said=UNKNOWN
        ! grep -q NOT_FOUND "$error" || said=MISSING
    fi
    echo "$said"
}

# again WHY: counts, gives back what is left, pauses longer each time.
again() {
    local seconds=$((poll << (lost < 5 ? lost : 5)))
    if ((++lost > recreate)); then
        echo "error: $1, for the ${lost}th time; giving up" >&2
        exit 1
    fi
    echo "$1; asking for a new slice in at most $seconds s ($lost of $recreate)"
    [[ $(state_of queued) == MISSING ]] || queued delete --force || true
    ((seconds < longest_wait)) || seconds=$longest_wait
    sleep "$seconds"
}

lost=0 ended=0 unknown=0 unsettled=0
while :; do
    state=$(state_of queued)
    date "+%F %T $tpu: $state"
    [[ $state == UNKNOWN ]] || unknown=0
    # The states of the Cloud TPU API (v2, QueuedResourceState). A Spot slice that is preempted goes through SUSPENDING to SUSPENDED.
    case $state in
        MISSING) queued create ${create_flags[@]+"${create_flags[@]}"} || again "the request was refused" ;;
        CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | SUSPENDING | DELETING) ;;
        SUSPENDED | FAILED) again "the slice is $state" ;;
        ACTIVE)
            code=0
            bash "$here/run_tpu_vm.sh" || code=$?
            [[ ! $code =~ ^[02]$ && ! -f $here/stopped ]] || exit "$code"
            node=$(state_of node) # says sooner than the queued resource that the slice was taken
            if [[ $node == READY && $(state_of queued) == ACTIVE ]]; then
                ((++ended <= faults)) || exit "$code"
                echo "the slice is there, and the run ended with exit code $code; started again ($ended of $faults)"
            elif [[ $node =~ ^(PREEMPTED|TERMINATED|STOPPED|MISSING)$ ]]; then
                again "the node is $node"
            elif ((++unsettled * poll > 3600)); then # repairing, restarting, ...
                unsettled=0
                again "the node is $node for an hour"
            fi
            ;;
        UNKNOWN)
            if ((++unknown * poll > 1800)); then
                echo "error: gcloud does not tell the state of $tpu: $(tail -n 1 "$here/logs/gcloud.txt")" >&2
                exit 1
            fi
            ;;
        *)
            echo "error: $tpu is in a state that is unknown here: $state" >&2
            exit 1
            ;;
    esac
    sleep "$poll"
done
