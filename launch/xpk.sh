#!/usr/bin/env bash
# A run on a TPU slice of a cluster that xpk made: `xpk workload create`, with the code built into the image.
#   bash launch/xpk.sh --cluster=NAME --project=PROJECT --zone=ZONE --type=v5litepod-64 --config=configs/NAME.py --workdir=DIR [--run] [FLAGS ...]
# Its own flags: --cluster=NAME --project=PROJECT --zone=ZONE; --type=TYPE; --image=IMAGE with bash and Python 3.11 or newer;
# --priority=medium; --storage=NAME of a storage that was attached with `xpk storage attach`. The workdir lies on that storage.
#
# shellcheck disable=SC2034  # templates are filled with these variables
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"

cluster='' type='' image=python:3.12 priority=medium storage=''
read_flags "cluster project zone type image priority storage" "$@"
want cluster project zone type storage
[[ $workdir == /* ]] ||
    fail "--workdir=$workdir: a pod's own disk goes with the pod; give a folder on a --storage=NAME"
accelerator "$type"
if ((hosts == 1 && chips == 8)); then # xpk cuts 2x4 into two hosts of four chips
    hosts=2 chips=4 devices=4
fi

mkdir -p "$out"
# A name alone: xpk takes the value from the environment that it is called in.
printf '# The variables that xpk takes from the environment of run.sh; only names stand here.\n' >"$out/xpk.env"
for variable in ${pass_env//,/ }; do
    echo "$variable"
done >>"$out/xpk.env"
# What restarts is the codes listed here, and 42 and 127 to 255 (xpk's own); 2 ends the workload. All restarts count.
flags=("--cluster=$cluster" "--project=$project" "--zone=$zone" "--workload=$name" "--tpu-type=$type" --num-slices=1
    "--base-docker-image=$image" "--priority=$priority" "--max-restarts=$restarts" "--restart-on-exit-codes=1,75"
    --termination-grace-period-seconds=120 "--storage=$storage" "--command=exec bash on_host.sh run")
[[ $type != tpu7x-* ]] || flags+=(--no-use-parallel-containers) # xpk would start two processes on each host
create_flags=$(words "${flags[@]}")

platform=jobset extra=tpu restarts=0 failures=0 scheduler=xpk namespace=default staging='' poll=30 patience=1800
logdir=$workdir/logs
bundle
fill run_jobset.sh "$out/run.sh"
print_and_run bundle/on_host.sh bundle/hosts.env xpk.env run.sh
