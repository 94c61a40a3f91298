"""A checkout that can be shipped, and clouds of folders: stand-ins for gcloud, kubectl, xpk and SLURM that note what they are asked.

The stand-ins are shell scripts on PATH. Those that reach hosts run the real on_host.sh for each, in a folder of its own; the shipped code
is a pretended package whose exit codes a test writes down beforehand.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds, for what must end by itself

# The flags that each launch script needs, --config aside.
TPU = ("--tpu=slice", "--zone=us-west4-a", "--type=v5litepod-64", "--workdir=/mnt/disk/run")
LAUNCHES = {
    "tpu_vm": TPU,
    "queued_resource": (*TPU, "--capacity=spot"),
    "gke": ("--type=v5litepod-64", "--staging=gs://bucket/code", "--claim=runs", "--workdir=/mnt/run/a"),
    "xpk": ("--cluster=c", "--project=p", "--zone=z", "--type=v5litepod-64", "--storage=runs", "--workdir=/mnt/disk/run"),
    "slurm": ("--nodes=2", "--gpus=8", "--time=24:00:00", "--workdir=/shared/run"),
    "host": ("--extra=cpu", "--workdir=run"),
}

# doctor and train: note their arguments, and end as FAKE/codes_I says, one word for each start: `hang` waits for SIGTERM and ends with 75;
# `2@0` ends with 2 once host 0 has begun to train, so that no host ends the run before the other is in it.
PACKAGE = """
import os, pathlib, signal, sys, time
fake, host = pathlib.Path(os.environ["FAKE"]), os.environ.get("FAKE_HOST", "0")
with open(fake / f"calls_{host}", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
plan = fake / (f"doctor_{host}" if sys.argv[1] == "doctor" else f"codes_{host}")
words = plan.read_text().split() if plan.exists() else []
word = words.pop(0) if words else "0"
plan.write_text(" ".join(words))
if word == "hang":
    def stop(*_):
        print("saved", flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
print(f"{sys.argv[1]} of host {host}, token {len(os.environ.get('JUDGE_TOKEN', ''))} letters", flush=True)
if sys.argv[1] == "train":
    (fake / f"training_{host}").touch()
code, _, after = word.partition("@")
while word == "hang" or after and not (fake / f"training_{after}").exists():
    time.sleep(0.02)
sys.exit(int(code))
"""

# In place of an installation: the python that runs the tests.
ENVIRONMENT = 'use_environment() {{ echo "installed $1" >>"$FAKE/calls_${{FAKE_HOST:-0}}"; PATH={python}:$PATH; }}\n'

GCLOUD = """
echo "gcloud $*" >>"$FAKE/asked"
for argument in "$@"; do
    case $argument in
        --worker=*) worker=${argument#*=} ;;
        --command=*) command=${argument#*=} ;;
    esac
done
workers() { if [[ $worker == all ]]; then seq 0 $((FAKE_HOSTS - 1)); else echo "$worker"; fi; }
case "$1 $2 $3 $4" in
    "compute tpus tpu-vm describe")
        if [[ $* == *networkEndpoints* ]]; then echo "$FAKE_HOSTS"; else cat "$FAKE/node"; fi ;;
    "compute tpus tpu-vm ssh")
        if [[ -s $FAKE/unreachable ]]; then echo "ssh: connect to host: timed out" >&2; exit 255; fi
        for i in $(workers); do (mkdir -p "$FAKE/host_$i" && cd "$FAKE/host_$i" && FAKE_HOST=$i bash -c "$command") || exit; done ;;
    "compute tpus tpu-vm scp")
        files=() ; for argument in "${@:5}"; do [[ $argument == --* ]] || files+=("$argument"); done
        to=${files[${#files[@]}-1]} ; unset "files[${#files[@]}-1]"
        for i in $(workers); do
            if [[ $to == *:* ]]; then cp "${files[@]}" "$FAKE/host_$i/${to#*:}"; else cp "$FAKE/host_$i/${files[0]#*:}" "$to"; fi
        done ;;
    "compute tpus queued-resources describe")
        state=$(head -n 1 "$FAKE/states") ; (($(wc -l <"$FAKE/states") == 1)) || sed -i 1d "$FAKE/states"  # the last one stays
        if [[ $state == MISSING ]]; then echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; fi
        echo "$state" ;;
esac
"""

KUBECTL = """
echo "kubectl $*" >>"$FAKE/asked"
case $* in
    *"create secret"*) sed 's/=.*/=(hidden)/' >>"$FAKE/asked"; echo "kind: Secret" ;;
    *"get jobset"*)
        state=$(head -n 1 "$FAKE/states") ; (($(wc -l <"$FAKE/states") == 1)) || sed -i 1d "$FAKE/states"  # the last one stays
        if [[ $state == none ]]; then echo "connection refused" >&2; exit 1; fi
        echo "$state" ;;
    *"apply -f -"*) cat >/dev/null ;;
    *logs*) all=$* ; echo "a line of ${all##*index=}" ;;
esac
"""

SBATCH = """
echo "sbatch $*" >>"$FAKE/asked"
grep -h '^#SBATCH' "${@: -1}" >>"$FAKE/asked"
echo "7;cluster"
touch "$FAKE/queued"
SLURM_RESTART_COUNT=0
while [[ -f $FAKE/queued ]]; do
    rm "$FAKE/queued"
    SLURM_JOB_ID=7 SLURM_JOB_NODELIST=node[0-1] SLURM_NTASKS=$FAKE_HOSTS SLURM_RESTART_COUNT=$SLURM_RESTART_COUNT \
        bash "${@: -1}" >>"$FAKE/job_output" 2>&1
    SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1))
done
"""

SRUN = """
echo "srun $*" >>"$FAKE/asked"
while [[ $1 == --* ]]; do shift; done
pids=() highest=0
for ((i = 0; i < FAKE_HOSTS; i++)); do FAKE_HOST=$i SLURM_PROCID=$i "$@" & pids+=($!); done
for pid in "${pids[@]}"; do code=0; wait "$pid" || code=$?; ((code <= highest)) || highest=$code; done
exit "$highest"
"""

SCONTROL = """
echo "scontrol $*" >>"$FAKE/asked"
case $1 in
    show) seq -f node%g 0 $((FAKE_HOSTS - 1)) ;;
    requeue) touch "$FAKE/queued" ;;
esac
"""

CURL = """
case $* in
    *agent-worker-number) printf %s "$FAKE_HOST" ;;
    *worker-network-endpoints) seq -s, -f "name:id:10.0.0.%g" 0 $((FAKE_HOSTS - 1)) ;;
esac
"""

STANDINS = {"gcloud": GCLOUD, "kubectl": KUBECTL, "sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "curl": CURL}
STANDINS |= {name: f'echo "{name} $*" >>"$FAKE/asked"' for name in ("xpk", "squeue", "scancel")}


class Cloud:
    """root: the checkout that launches; fake: what stand-ins and hosts note; out: the folder that launch scripts fill."""

    def __init__(self, folder: Path, *, hosts: int = 2):
        for tool in ("git", "setsid", "pkill"):
            if not shutil.which(tool):
                pytest.skip(f"{tool} is not there")
        self.root, self.fake, self.out = folder / "a checkout", folder / "fake", folder / "a launch"
        self.hosts = hosts
        for made in (self.root / "editr2_jax", self.root / "configs", self.fake, folder / "bin"):
            made.mkdir(parents=True)
        shutil.copytree(ROOT / "launch", self.root / "launch")
        shutil.copy(ROOT / ".gitignore", self.root)
        (self.root / "configs" / "run.py").write_text("def get_config(): ...\n")
        (self.root / "editr2_jax" / "__init__.py").touch()
        (self.root / "editr2_jax" / "__main__.py").write_text(PACKAGE)
        with open(self.root / "launch" / "environment.sh", "a") as file:
            file.write(ENVIRONMENT.format(python=folder / "bin"))
        (folder / "bin" / "python").symlink_to(sys.executable)
        for name, script in STANDINS.items():
            (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{textwrap.dedent(script)}")
            (folder / "bin" / name).chmod(0o755)
        git = "-c user.name=t -c user.email=t@t -c init.defaultBranch=main".split()
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
            subprocess.run(["git", *git, *command], cwd=self.root, check=True)
        self.environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "FAKE": str(self.fake),
            "FAKE_HOSTS": str(hosts),
        }

    def launch(self, script: str, *flags: str, status: int = 0, cwd: Path | None = None) -> str:
        """What `bash launch/SCRIPT.sh --config=configs/run.py --out=... FLAGS` says, of standard output; of errors where it fails."""
        command = ["bash", str(self.root / "launch" / f"{script}.sh"), "--config=configs/run.py", f"--out={self.out}", *flags]
        done = subprocess.run(command, cwd=cwd or self.fake, env=self.environment, capture_output=True, text=True)
        assert done.returncode == status, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        return done.stderr if status else done.stdout

    def run(self, *arguments: str, status: int = 0, environment: dict[str, str] | None = None) -> str:
        """What `bash OUT/run.sh ARGUMENTS` says; it must end with `status`."""
        command = ["bash", str(self.out / "run.sh"), *arguments]
        done = subprocess.run(command, env=self.environment | (environment or {}), capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == status, (done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout

    def edit(self, **settings: object) -> None:
        """Changes settings in the generated files, as a person would."""
        for path in [*self.out.glob("*.sh"), *self.out.glob("bundle/*.sh"), *self.out.glob("job.sbatch")]:
            lines = path.read_text().splitlines()
            for at, line in enumerate(lines):
                name = line.partition("=")[0]
                if name in settings and "--- settings" in "".join(lines[:at]):
                    lines[at] = f"{name}={settings[name]}"
            path.write_text("\n".join(lines) + "\n")

    def plan(self, host: int, codes: str, *, doctor: str = "") -> None:
        """The exit codes of a host's next runs of train, and of doctor."""
        (self.fake / f"codes_{host}").write_text(codes)
        (self.fake / f"doctor_{host}").write_text(doctor)

    def note(self, name: str) -> str:
        """What was noted under a name: `asked` of the stand-ins, `calls_I` of the package on host I."""
        path = self.fake / name
        return path.read_text() if path.exists() else ""

    def trained(self, host: int) -> list[str]:
        """The arguments of each start of training on a host."""
        return [line for line in self.note(f"calls_{host}").splitlines() if line.startswith("train ")]
