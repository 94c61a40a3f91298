#!/usr/bin/env bash
# A run on GPU nodes of a SLURM cluster, one process on each node. The checkout and the workdir lie on a disk that all nodes see.
#   bash launch/slurm.sh --nodes=N --gpus=8 --time=24:00:00 --config=configs/NAME.py --workdir=DIR [--run] [FLAGS ...]
# Its own flags: --nodes=N --gpus=K of each node; --time=LIMIT, after which the job is queued again; --partition=P --account=A --qos=Q.
#
# shellcheck disable=SC2034  # templates are filled with these variables
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"

nodes='' gpus='' time='' partition='' account='' qos=''
read_flags "nodes gpus time partition account qos" "$@"
want nodes gpus time
from_here

platform=slurm extra=cuda devices=$gpus logdir=$out/logs poll=30
bundle
fill slurm_job.sh "$out/.body"
{
    cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$gpus
#SBATCH --exclusive
#SBATCH --time=$time
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=$logdir/slurm_%j.log
#SBATCH --export=HOME,USER,PATH,LD_LIBRARY_PATH${pass_env:+,$pass_env}
END
    for flag in partition account qos; do
        [[ -z ${!flag} ]] || echo "#SBATCH --$flag=${!flag}"
    done
    tail -n +2 "$out/.body"
} >"$out/job.sbatch"
rm "$out/.body"
fill run_slurm.sh "$out/run.sh"
print_and_run bundle/on_host.sh bundle/hosts.env job.sbatch run.sh
