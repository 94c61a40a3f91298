#!/usr/bin/env bash
# Makes a tiny base for the embedded world: fresh weights, autoencoder, drawing and words, a habit of speech, export in the official layout.
# Run again, it resumes.
#   bash launch/tiny_base.sh OUT [VARIANT]        VARIANT: laptop (default) or accelerator
# OUT/base is the checkpoint; OUT/autoencoder, OUT/supervised and OUT/habit are the workdirs with their curves.
set -euo pipefail

here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[[ $# -ge 1 ]] || fail "usage: bash launch/tiny_base.sh OUT [VARIANT]"
out=$1
[[ $out == /* ]] || out=$here/$out
variant=${2:-laptop}

use_environment cpu
cd "$root"
mkdir -p "$out"
[[ -d $out/fresh ]] || python -m editr2_jax init --out="$out/fresh"
if [[ ! -d $out/autoencoded ]]; then
    python -m editr2_jax train --config=configs/tabletop_autoencoder.py:"$variant" --workdir="$out/autoencoder" \
        --config.model.checkpoint="$out/fresh"
    python -m editr2_jax port export --workdir="$out/autoencoder" --out="$out/autoencoded"
fi
if [[ ! -d $out/taught ]]; then
    python -m editr2_jax train --config=configs/tabletop_supervised.py:"$variant" --workdir="$out/supervised" \
        --config.model.checkpoint="$out/autoencoded" --config.data.path="$out/autoencoder/data"
    python -m editr2_jax port export --workdir="$out/supervised" --out="$out/taught"
fi
python -m editr2_jax train --config=configs/tabletop_supervised.py:habit --workdir="$out/habit" \
    --config.model.checkpoint="$out/taught" --config.data.path="$out/autoencoder/data"
rm -rf "$out/base"
python -m editr2_jax port export --workdir="$out/habit" --out="$out/base" --dtype=bfloat16
echo "base checkpoint: $out/base"
