#!/usr/bin/env bash
# What takes hours: plans of BAGEL-7B for every topology, a checkpoint of its size through every door, the tests that launch/test.sh
# leaves out, and many kills and stops. Run again, it leaves out the plans that are there. EDITR2_KILLS, EDITR2_STOPS, EDITR2_KILL_STEPS
# and EDITR2_HOST_STEPS say how many and over how many steps.
#   bash launch/nightly.sh OUT
# OUT/plans holds a JSON file per topology and plans.md; OUT/rehearsal.log and OUT/tests.log what the others said. 60 GB of disk at OUT.
set -euo pipefail

here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[[ $# -eq 1 ]] || fail "usage: bash launch/nightly.sh OUT"
out=$1
[[ $out == /* ]] || out=$here/$out

use_environment dev
use_environment plan
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
cd "$root"
mkdir -p "$out/plans"

# plan VARIANT TOPOLOGY: once; a plan that does not fit is one, too.
plan() {
    local json=$out/plans/$1.json
    [[ -f $json ]] || python -m editr2_jax plan --config="configs/bagel_7b_edit_r2.py:$1" --topology="$2" --json="$json" || [[ -f $json ]]
}

plan v5e_8 v5e:2x4
plan v5e_16 v5e:4x4
plan v5e_64 v5e:8x8
plan v5p_16 v5p:2x2x2
plan v6e_16 v6e:4x4
plan tpu7x_4 tpu7x:2x2x1
plans=("$out"/plans/*.json)
python -m editr2_jax plan --table="$(IFS=,; echo "${plans[*]}")" >"$out/plans/plans.md"

python -m editr2_jax port rehearse --manifest=tests/golden/bagel/manifest_7b.json --shards=7 --out="$out/rehearsal" | tee "$out/rehearsal.log"

# Kills and SIGTERMs at random moments: of parts, of whole runs, of runs of two and of four processes.
export EDITR2_KILLS=${EDITR2_KILLS:-20} EDITR2_STOPS=${EDITR2_STOPS:-20}
export EDITR2_KILL_STEPS=${EDITR2_KILL_STEPS:-30} EDITR2_HOST_STEPS=${EDITR2_HOST_STEPS:-24}
failed=0
tests() { python -m pytest -q -s -p no:cacheprovider --durations=0 "$@" | tee -a "$out/tests.log" || failed=1; }
: >"$out/tests.log"
tests tests -m nightly --ignore=tests/end_to_end
tests tests/end_to_end/test_train.py tests/runtime tests/rewards/test_verdict_store.py tests/rollouts/test_spool.py -k "kill or stops or sigterm or kept"
tests tests/end_to_end/test_hosts.py -k killed
EDITR2_HOSTS=4 EDITR2_KILLS=4 EDITR2_HOST_STEPS=6 tests tests/end_to_end/test_hosts.py -k "killed or several"
exit $failed
