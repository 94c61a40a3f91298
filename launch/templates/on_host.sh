#!/usr/bin/env bash
# What every host of a job does. The launch scripts copy this file and fill in its settings; an edited copy is what runs.
#   bash on_host.sh install   unpack the code, make its .venv, install the package
#   bash on_host.sh run       install, preflight, train; start again after a stop or a fault, as the exit code says
#   bash on_host.sh start     run, out of this shell's sight; NAME=VALUE lines on its input become environment variables of the run alone
#   bash on_host.sh status    one line, `host I STATE`, then the end of its log
#   bash on_host.sh stop      ask the run to save and to end
# Exit codes of training: 0 done. 2 a mistake of the caller: not started again. 75 stopped by a signal, or another host was lost: started
# again, `restarts` times at most. Anything else is a fault: started again, `failures` times at most. A pause doubles each time.
set -euo pipefail

# --- settings
platform=host      # who knows which host this is: tpu_vm, jobset, slurm, or host for a single one
extra=cpu          # what to install: tpu, cuda, cpu; none where the image has everything
prepare=           # a command to run before installing, such as one that gets a newer Python
port=8482          # of the coordinator, on the first host; 8482 is what jax takes by itself on TPU hosts
devices=           # how many this host must have; empty for any
deadline=600       # seconds for the hosts to find each other
restarts=100       # after exit code 75
failures=5         # after other codes than 0, 2 and 75
longest_pause=300  # seconds
logdir=logs        # host_I.log and host_I.state
arguments=(--config=configs/tabletop_edit_r2.py --workdir=run)
# --- end of settings

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $logdir == /* ]] || logdir=$here/$logdir
endpoints='' token_env=''
# shellcheck disable=SC1091  # settings of the environment, beside this file
[[ ! -f $here/hosts.env ]] || source "$here/hosts.env"

# find_host: sets `index` of this host, and `hosts`, the names of all of them in order.
find_host() {
    local names
    index=0 hosts=(localhost)
    case $platform in
        tpu_vm)  # the words of jax's own detection (jax, cloud_tpu_cluster.py): names, or name:id:address
            index=$(metadata agent-worker-number)
            names=$(metadata worker-network-endpoints)
            IFS=, read -ra hosts <<<"$names"
            hosts=("${hosts[@]##*:}")
            ;;
        jobset)  # GKE sets both in pods that ask for chips of a slice with several hosts
            index=${TPU_WORKER_ID:-0}
            IFS=, read -ra hosts <<<"${TPU_WORKER_HOSTNAMES:-localhost}"
            ;;
        slurm)
            index=${SLURM_PROCID:-0}
            names=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
            IFS=$'\n' read -rd '' -a hosts <<<"$names" || true
            ;;
    esac
}

metadata() {
    curl -sf -H 'Metadata-Flavor: Google' "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/$1"
}

install() {
    local shipped
    shipped=$(cksum <"$here/code.tar.gz")
    mkdir -p "$here/code"
    if [[ $(cat "$here/code/.shipped" 2>/dev/null) != "$shipped" ]]; then
        find "$here/code" -mindepth 1 -maxdepth 1 ! -name .venv ! -name .cache -exec rm -rf {} +
        tar -xzf "$here/code.tar.gz" -C "$here/code"
        echo "$shipped" >"$here/code/.shipped"
    fi
    [[ -z $prepare ]] || bash -c "$prepare"
    environment
}

environment() {
    # A host that should have an accelerator fails without it, where jax by itself would go on with the CPU.
    case $extra in
        tpu) export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu} ;;
        cuda) export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu} ;;
        cpu) export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} ;;
        none) return ;;
    esac
    # shellcheck disable=SC1091  # of the shipped code
    source "$here/code/launch/environment.sh"
    use_environment "$extra"
}

# attempt: preflight, then training in the place of this shell, so that signals reach it.
attempt() {
    local meet=() processes=()
    if ((${#hosts[@]} > 1)); then
        meet=("--coordinator=${hosts[0]}:$port" "--processes=${#hosts[@]}" "--process=$index" "--hosts=$(IFS=, && echo "${hosts[*]}")")
        processes=(--processes=auto)
        [[ $platform != slurm ]] || processes=("${meet[@]:0:3}")
    fi
    [[ -z $devices ]] || meet+=("--expect_devices=$devices")
    [[ -z $endpoints ]] || meet+=("--endpoints=$endpoints")
    [[ -z $token_env ]] || meet+=("--token_env=$token_env")
    bash "${BASH_SOURCE[0]}" install || exit 1  # its tools have exit codes of their own
    environment
    cd "$here/code"
    echo "host $index of ${#hosts[@]}: code $(cat SHIPPED_COMMIT)"
    python -m editr2_jax doctor --preflight "${arguments[@]}" "--deadline=$deadline" ${meet[@]+"${meet[@]}"}
    exec python -m editr2_jax train "${arguments[@]}" ${processes[@]+"${processes[@]}"}
}

# supervise: one attempt, to which signals are passed on; sets `code`.
supervise() {
    local again
    attempt &
    child=$!
    code=0
    while :; do
        interrupted=false again=0
        wait "$child" || again=$?
        ((again == 127)) || code=$again  # 127: a signal came between, and the child's own code is known already
        $interrupted || break
    done
    child=
}

on_signal() {
    stopped=true interrupted=true
    [[ -n $child ]] || return 0
    # Before training takes its place the shell waits for preflight, which would outlive it and hold the port.
    [[ $(cat "/proc/$child/comm" 2>/dev/null) != bash ]] || pkill -TERM -P "$child" || true
    kill -TERM "$child" 2>/dev/null || true
}

# note KIND TEXT: host_I.KIND, as a whole: who looks meanwhile sees the old text or the new one. Two processes may write it at once.
note() {
    local unseen=$logdir/.host_$index.$1.$BASHPID
    echo "$2" >"$unseen" && mv "$unseen" "$logdir/host_$index.$1"
}

pause() {
    local seconds=$((5 << (lost + failed > 7 ? 6 : lost + failed - 1)))
    ((seconds < longest_pause)) || seconds=$longest_pause
    echo "host $index: exit code $code; the same command again in $seconds s ($lost stops, $failed faults so far)"
    note state "waiting, exit code $code"
    sleep "$seconds" >/dev/null 2>&1 &
    wait $! || kill $! 2>/dev/null || true
}

run() {
    local reader pipe lost=0 failed=0
    find_host
    mkdir -p "$logdir"
    note pid $$
    # Everything also goes to the log, by a process that outlives signals to all of this host.
    pipe=$(mktemp -u)
    mkfifo "$pipe"
    (trap '' TERM INT HUP && exec tee -a "$logdir/host_$index.log" <"$pipe") &
    reader=$!
    exec >"$pipe" 2>&1
    rm "$pipe"
    child='' stopped=false
    trap on_signal TERM INT
    while ! $stopped; do
        note state running
        supervise
        case $code in
            0 | 2) break ;;
            75) ((++lost <= restarts)) || break ;;
            *) ((++failed <= failures)) || break ;;
        esac
        $stopped || pause
    done
    # A run that saved because it was asked to is to be started again, however it called its end.
    if $stopped && ((code != 2)); then code=75; fi
    echo "host $index: ends with exit code $code"
    exec >/dev/null 2>&1
    for _ in 1 2 3 4 5; do  # the last lines; a process that training left behind may hold the log open for long
        kill -0 "$reader" 2>/dev/null || break
        sleep 0.2
    done
    note state "exit $code"
    exit "$code"
}

# now: the state; `lost` where the process has gone without a word.
now() {
    local said=absent
    [[ ! -f $logdir/host_$index.state ]] || said=$(<"$logdir/host_$index.state")
    [[ $said == exit* || $said == absent ]] || kill -0 "$(<"$logdir/host_$index.pid")" 2>/dev/null || said=lost
    echo "$said"
}

start() {
    local line
    find_host
    case $(now) in
        absent | exit*) ;;
        lost) # what training itself may have left holds the devices and the workdir
            pkill -KILL -g "$(<"$logdir/host_$index.pid")" -f 'editr2_jax train' || true
            ;;
        *)
            echo "host $index runs already"
            return
            ;;
    esac
    while IFS= read -r line; do
        [[ $line != [A-Za-z_]*=* ]] || export "${line?}"
    done
    mkdir -p "$logdir"
    note pid $$
    note state starting
    setsid nohup bash "${BASH_SOURCE[0]}" run </dev/null >/dev/null 2>&1 &
    note pid $!
    echo "host $index started"
}

status() {
    find_host
    echo "host $index $(now)"
    [[ ! -f $logdir/host_$index.log ]] || tail -n 3 "$logdir/host_$index.log" | sed "s/^/[$index] /"
}

stop() {
    find_host
    [[ $(now) =~ ^(absent|lost|exit) ]] || kill -TERM "$(<"$logdir/host_$index.pid")"
}

case ${1:-} in
    install | run | start | status | stop) "$1" ;;
    *)
        echo "usage: bash on_host.sh install|run|start|status|stop" >&2
        exit 2
        ;;
esac
