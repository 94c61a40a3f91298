#!/usr/bin/env bash
# The main job on this machine: Edit-R2 on the tabletop world, then its report. Sets up everything it needs; run again, it resumes.
#   bash launch/local.sh [WORKDIR] [--config.a.b=VALUE ...]
set -euo pipefail

here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

workdir=$root/workdirs/tabletop_edit_r2
if [[ $# -gt 0 && $1 != --* ]]; then
    workdir=$1
    shift
    [[ $workdir == /* ]] || workdir=$here/$workdir
fi

use_environment cpu
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
cd "$root"
python -m editr2_jax train --config=configs/tabletop_edit_r2.py --workdir="$workdir" "$@"
python -m editr2_jax report --workdir="$workdir" >/dev/null

echo "report: $workdir/report/index.html"
if [[ -f $workdir/report/result.txt ]]; then
    echo "result: $(<"$workdir/report/result.txt")"
else
    echo "result: none yet, the run was stopped; the same command goes on with it"
fi
