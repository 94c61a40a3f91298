#!/usr/bin/env bash
# A run on a TPU slice that is asked for as a queued resource, and asked for again when it is preempted.
#   bash launch/queued_resource.sh --tpu=NAME --zone=ZONE --type=v5litepod-64 --capacity=spot --config=configs/NAME.py --workdir=DIR [--run]
# Its own flags: --tpu=NAME of the slice that is made; --zone=ZONE --project=PROJECT; --type=TYPE; --capacity=spot|reserved|on-demand;
# --runtime=VERSION of the image, by default that of the type; --wait=6h, then a request that was not met fails; --recreate=20.
#
# shellcheck disable=SC2034  # templates are filled with these variables
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"

tpu='' type='' capacity='' runtime='' wait='' recreate=20
read_flags "tpu zone project type capacity runtime wait recreate" "$@"
want tpu zone type capacity
accelerator "$type"
[[ -n $runtime ]] || fail "--runtime=VERSION is missing: the image for $type has no default here"
case $capacity in
    spot | reserved) tier=--$capacity ;;
    on-demand) tier='' ;;
    *) fail "--capacity=$capacity; it is spot, reserved or on-demand" ;;
esac

on_tpu_vms
patience=180 longest_wait=900 faults=3
create_flags=$(words "--node-id=$tpu" "--accelerator-type=$type" "--runtime-version=$runtime" ${tier:+"$tier"} ${wait:+"--valid-until-duration=$wait"})
bundle
fill run_tpu_vm.sh "$out/run_tpu_vm.sh"
fill run_queued_resource.sh "$out/run.sh"
print_and_run bundle/on_host.sh bundle/hosts.env run_tpu_vm.sh run.sh
