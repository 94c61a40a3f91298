#!/usr/bin/env bash
# A run on all workers of a TPU VM that is there.
#   bash launch/tpu_vm.sh --tpu=NAME --zone=ZONE --config=configs/NAME.py --workdir=DIR [--run] [FLAGS ...]
# Its own flags: --tpu=NAME --zone=ZONE; --project=PROJECT; --type=v5litepod-64, then preflight counts the devices of each host.
#
# shellcheck disable=SC2034  # templates are filled with these variables
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"

tpu='' type=''
read_flags "tpu zone project type" "$@"
want tpu zone
[[ -z $type ]] || accelerator "$type"

on_tpu_vms
bundle
fill run_tpu_vm.sh "$out/run.sh"
print_and_run bundle/on_host.sh bundle/hosts.env run.sh
