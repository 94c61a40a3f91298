#!/usr/bin/env bash
# Makes a tiny base for the embedded world: fresh weights, autoencoder, drawing and words, a habit of speech, export in the official layout.
# Run again, it resumes.
#   bash launch/tiny_base.sh OUT
# OUT/base is the checkpoint; OUT/autoencoder, OUT/supervised and OUT/habit are the workdirs with their curves.
set -euo pipefail

here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[[ $# -eq 1 ]] || fail "usage: bash launch/tiny_base.sh OUT"
out=$1
[[ $out == /* ]] || out=$here/$out

# stage NAME CONFIG FROM TO DTYPE [FLAGS ...]: trains OUT/NAME from the checkpoint OUT/FROM and exports it as OUT/TO, once.
stage() {
    local run=$out/$1 config=$2 from=$out/$3 to=$out/$4 dtype=$5
    [[ ! -d $to ]] || return 0
    python -m editr2_jax train --config="$config" --workdir="$run" --config.model.checkpoint="$from" "${@:6}"
    # A run that was asked to stop ends well, too; its weights are not the stage's.
    local steps
    steps=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["loop"]["steps"])' "$run/config.json")
    [[ -d $run/checkpoints/$steps ]] || fail "stage $1 was stopped before its end; the same command goes on with it"
    python -m editr2_jax port export --workdir="$run" --out="$to" --dtype="$dtype"
}

use_environment cpu
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
cd "$root"
mkdir -p "$out"
[[ -d $out/fresh ]] || python -m editr2_jax init --out="$out/fresh"
stage autoencoder configs/tabletop_autoencoder.py fresh autoencoded float32
stage supervised configs/tabletop_supervised.py autoencoded taught float32 --config.data.path="$out/autoencoder/data"
stage habit configs/tabletop_supervised.py:habit taught base bfloat16 --config.data.path="$out/autoencoder/data"
echo "base checkpoint: $out/base"
