#!/usr/bin/env bash
# The tests: all of them but those of launch/nightly.sh, or the fast part, without what is slow and without the recorded vectors.
# Sets up everything it needs. More arguments go to pytest.
#   bash launch/test.sh [fast] [PYTEST ARGUMENTS ...]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

chosen=(-m "not nightly")
if [[ ${1:-} == fast ]]; then
    chosen=(-m "not slow and not golden and not nightly")
    shift
fi

use_environment dev
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# One thread for each worker's arithmetic: the workers are the parallelism. And hundreds of small programs that run once are compiled quickly.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [[ -z ${XLA_FLAGS+set} ]]; then
    export XLA_FLAGS
    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false $(cd "$root" && python -c 'from editr2_jax.runtime import quick; print(quick.flags())')"
fi
# Tests are named from the checkout's root; a folder of vectors from where the caller stands.
arguments=()
for argument in "$@"; do
    [[ $argument == --vectors=[!/]* ]] && argument=--vectors=$PWD/${argument#--vectors=}
    arguments+=("$argument")
done
cd "$root"
ruff check --quiet .
# A file's tests stay together, and the files in their order: what is compiled for one test serves the next. One worker more than there
# are cores, since tests also wait: for processes of their own, for servers, for deadlines.
workers=$(python -c 'import os; print(min(os.cpu_count() + 1, 4))')
python -m pytest -q --numprocesses="$workers" --dist=loadfile --no-loadscope-reorder ${chosen[@]+"${chosen[@]}"} ${arguments[@]+"${arguments[@]}"}
