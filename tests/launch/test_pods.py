"""The scripts that start jobs elsewhere, without starting any: what they ship, make, print and refuse."""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from fake_cloud import LAUNCHES, TPU, Cloud

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def check_shell(*paths: Path) -> None:
    for path in paths:
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *paths], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_every_script_here_is_clean():
    check_shell(*sorted((ROOT / "launch").glob("*.sh")), *sorted((ROOT / "launch/templates").iterdir()))


@pytest.mark.parametrize("script", LAUNCHES)
def test_a_dry_run_makes_clean_files_shows_them_and_starts_nothing(cloud, script):
    said = cloud.launch(script, *LAUNCHES[script], "--config.loop.steps=3", "--config.data.path=a 'b' c", "--endpoints=http://judge:8000")
    assert cloud.note("asked") == "" and "A dry run: nothing was started" in said
    made = [path for path in cloud.out.rglob("*") if path.is_file() and path.suffix != ".gz"]
    for path in made:
        assert path.read_text() in said  # before anything runs, everything was seen
    check_shell(*(path for path in made if path.suffix in (".sh", ".sbatch")), cloud.out / "bundle/hosts.env")
    on_host = (cloud.out / "bundle/on_host.sh").read_text()
    assert "--config.loop.steps=3 '--config.data.path=a '\\''b'\\'' c')" in on_host
    assert "endpoints=http://judge:8000\n" in (cloud.out / "bundle/hosts.env").read_text()
    with tarfile.open(cloud.out / "bundle/code.tar.gz") as code:
        names = code.getnames()
        commit = code.extractfile("SHIPPED_COMMIT").read().decode().strip()
    assert "editr2_jax/__main__.py" in names and "launch/environment.sh" in names and re.fullmatch("[0-9a-f]{12}", commit)


@pytest.mark.parametrize("script", LAUNCHES)
def test_secrets_are_named_and_never_written(cloud, script):
    cloud.environment["JUDGE_TOKEN"] = "a-very-secret-value"
    said = cloud.launch(script, *LAUNCHES[script], "--pass_env=JUDGE_TOKEN")
    assert "a-very-secret-value" not in said
    for path in cloud.out.rglob("*"):
        assert path.is_dir() or b"a-very-secret-value" not in path.read_bytes()
    if script != "host":  # which has the variables of this shell anyway
        assert any("JUDGE_TOKEN" in path.read_text() for path in cloud.out.rglob("*") if path.is_file() and path.suffix != ".gz")


@pytest.mark.parametrize("script", LAUNCHES)
def test_help_tells_the_flags_of_its_own_and_of_all(cloud, script):
    done = subprocess.run(["bash", ROOT / f"launch/{script}.sh", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and f"bash launch/{script}.sh" in done.stdout and "--allow-dirty" in done.stdout
    assert "shellcheck" not in done.stdout and "pipefail" not in done.stdout


def test_changes_that_no_commit_holds_are_refused_or_marked(cloud):
    (cloud.root / "configs/mine.py").write_text("def get_config(): ...\n")
    assert "has changes that no commit holds" in cloud.launch("host", *LAUNCHES["host"], status=1)
    said = cloud.launch("host", *LAUNCHES["host"], "--config=configs/mine.py:variant", "--allow-dirty")
    assert re.search(r"code: [0-9a-f]{12}\+, ", said)
    with tarfile.open(cloud.out / "bundle/code.tar.gz") as code:
        assert "configs/mine.py" in code.getnames()
        assert code.extractfile("SHIPPED_COMMIT").read().decode().endswith("+\n")
    status = subprocess.run(["git", "status", "--porcelain"], cwd=cloud.root, capture_output=True, text=True).stdout
    assert status == "?? configs/mine.py\n"  # and git's own index was not touched


@pytest.mark.parametrize(
    ("script", "flags", "told"),
    [
        ("host", ("--extra=cpu",), "where does the run live?"),
        ("host", ("--extra=cpu", "--workdir=w", "--config=configs/gone.py"), "the code that is shipped has no such file"),
        ("host", ("--extra=cpu", "--workdir=w", "--nodes=2"), "unknown flag --nodes"),
        ("host", ("--extra=cpu", "--workdir=w", "again"), "again is no flag"),
        ("host", ("--extra=cpu", "--workdir=w", "--name=Two Words"), "at most 28 lower-case letters"),
        ("host", ("--extra=cpu", "--workdir=w", "--pass_env=NO_SUCH_TOKEN"), "this shell has no variable NO_SUCH_TOKEN"),
        ("host", ("--workdir=w",), "--extra=VALUE is missing"),
        ("tpu_vm", ("--tpu=t", "--zone=z", "--workdir=run"), "all workers mount"),
        ("tpu_vm", (*TPU, "--type=v5litepod-65"), "no slice of 65 chips is known here"),
        ("tpu_vm", (*TPU, "--type=h100-8"), "is no TPU type known here"),
        ("queued_resource", (*TPU, "--capacity=cheap"), "it is spot, reserved or on-demand"),
        ("queued_resource", (*TPU, "--capacity=spot", "--type=tpu7x-16"), "--runtime=VERSION is missing"),
        ("gke", ("--type=v6e-16", "--staging=bucket", "--claim=c", "--workdir=/mnt/run/x"), "give gs://BUCKET/FOLDER"),
        ("gke", ("--type=v6e-16", "--staging=gs://b/c", "--claim=c", "--workdir=/mnt/x"), "a pod's own disk goes with the pod"),
        (
            "xpk",
            ("--cluster=c", "--project=p", "--zone=z", "--type=v6e-16", "--storage=s", "--workdir=run"),
            "a pod's own disk goes with the pod",
        ),
        ("gke", ("--type=v6e-16", "--staging=gs://b/c", "--workdir=gs://b/run"), "--claim=VALUE is missing"),
        ("slurm", ("--nodes=2", "--workdir=w"), "--gpus=VALUE is missing"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(cloud, script, flags, told):
    error = cloud.launch(script, *flags, status=1)
    assert error.startswith("error: ") and told in error and not (cloud.out / "run.sh").exists()


@pytest.mark.parametrize(
    ("kind", "gke", "topology", "hosts", "chips", "devices"),
    [
        ("v5litepod-8", "tpu-v5-lite-podslice", "2x4", 1, 8, 8),
        ("v5litepod-16", "tpu-v5-lite-podslice", "4x4", 4, 4, 4),
        ("v5litepod-64", "tpu-v5-lite-podslice", "8x8", 16, 4, 4),
        ("v6e-16", "tpu-v6e-slice", "4x4", 4, 4, 4),
        ("v5p-16", "tpu-v5p-slice", "2x2x2", 2, 4, 4),
        ("tpu7x-16", "tpu7x", "2x2x2", 2, 4, 8),
    ],
)
def test_slices_are_as_the_documentation_says(kind, gke, topology, hosts, chips, devices):
    script = f'source "{ROOT}/launch/pod.sh"; accelerator {kind}; echo $gke_accelerator $topology $hosts $chips $devices'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [gke, topology, str(hosts), str(chips), str(devices)]


def test_a_setting_keeps_any_text(tmp_path):
    """Quoting: what a template is filled with is what bash reads back."""
    text = 'it\'s "a" $HOME `b` \\ #c ; & | (d) ~ é'
    script = f'source "{ROOT}/launch/pod.sh"; quoted "$TEXT"; echo; words "$TEXT" "" plain'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ | {"TEXT": text}, check=True)
    first, second = done.stdout.splitlines()
    back = subprocess.run(["bash", "-c", f'a={first}; b={second}; printf "%s\\n" "$a" "${{b[@]}}"'], capture_output=True, text=True)
    assert back.stdout.splitlines() == [text, text, "", "plain"]
