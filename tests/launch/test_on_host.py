"""What a host does: who it is, what it runs, when it starts again, and what it leaves behind."""

import os
import signal
import subprocess
import time

import pytest
from fake_cloud import PATIENCE, Cloud


@pytest.fixture
def cloud(tmp_path):
    """Files for one host, with no pauses."""
    cloud = Cloud(tmp_path)
    cloud.launch("host", "--extra=cpu", "--workdir=a run")
    cloud.edit(longest_pause=0)
    return cloud


def state(cloud):
    return (cloud.out / "logs/host_0.state").read_text().strip()


def test_a_host_installs_asks_and_trains(cloud):
    said = cloud.run()
    arguments = f"--config=configs/run.py --workdir={cloud.fake}/a run"  # from where one stood
    assert cloud.note("calls_0").splitlines() == [
        "installed cpu",
        "installed cpu",
        f"doctor --preflight {arguments} --deadline=600",
        f"train {arguments}",
    ]
    log = (cloud.out / "logs/host_0.log").read_text()
    assert log == said and log.endswith("train of host 0, token 0 letters\nhost 0: ends with exit code 0\n")
    assert state(cloud) == "exit 0" and "host 0 of 1: code " in log


@pytest.mark.parametrize(
    ("codes", "doctor", "status", "starts"),
    [
        ("75 75 0", "", 0, 3),  # stopped, or a host was lost: again
        ("2 0", "", 2, 1),  # a mistake of the caller: never again
        ("1 139 0", "", 0, 3),  # faults: again
        ("1 1 1 1", "", 1, 3),  # but not for ever
        ("75 75 75 75 75", "", 75, 5),  # nor stops
        ("0", "1 0", 0, 1),  # what preflight misses may come yet
        ("0", "2", 2, 0),
    ],
)
def test_the_exit_code_says_whether_it_starts_again(cloud, codes, doctor, status, starts):
    cloud.edit(failures=2, restarts=4)
    cloud.plan(0, codes, doctor=doctor)
    cloud.run(status=status)
    assert len(cloud.trained(0)) == starts and state(cloud) == f"exit {status}"
    assert len(set(cloud.trained(0))) <= 1  # the same command


def test_pauses_double_up_to_the_longest(cloud):
    cloud.edit(failures=9)
    cloud.plan(0, "1 " * 9 + "0")
    script = cloud.out / "bundle/on_host.sh"
    script.write_text(script.read_text().replace("longest_pause=0", "longest_pause=300").replace('sleep "$seconds"', "true"))
    said = [line for line in cloud.run().splitlines() if "again in" in line]
    assert [int(line.partition("again in ")[2].split()[0]) for line in said] == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def hanging(cloud):
    process = subprocess.Popen(["bash", cloud.out / "run.sh"], env=cloud.environment, stdout=subprocess.PIPE, text=True)
    while not (cloud.fake / "training_0").exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_a_signal_reaches_training_which_saves_and_is_not_started_again(cloud):
    cloud.plan(0, "hang 0")
    process = hanging(cloud)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 75 and len(cloud.trained(0)) == 1 and state(cloud) == "exit 75"
    assert "saved" in said and said == (cloud.out / "logs/host_0.log").read_text()


def test_a_signal_ends_preflight_too(cloud):
    """Else it would wait for the other hosts, and hold the coordinator's port against the next start."""
    cloud.plan(0, "0", doctor="hang")
    process = subprocess.Popen(["bash", cloud.out / "run.sh"], env=cloud.environment, stdout=subprocess.PIPE, text=True)
    log = cloud.out / "logs/host_0.log"
    while not log.exists() or "doctor of host 0" not in log.read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE)  # which ends when nobody holds the pipe any more
    assert process.returncode == 75 and not cloud.trained(0) and state(cloud) == "exit 75", said


def test_killed_training_is_a_fault(cloud):
    cloud.plan(0, "hang 0")
    process = hanging(cloud)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    commands = {child: open(f"/proc/{child}/cmdline").read().split("\0") for child in children}
    (training,) = (int(child) for child, command in commands.items() if "train" in command)
    os.kill(training, signal.SIGKILL)
    process.communicate()
    assert process.returncode == 0 and len(cloud.trained(0)) == 2


def test_a_host_that_does_not_know_the_others_does_not_train_alone(cloud):
    cloud.edit(platform="tpu_vm")
    (cloud.fake.parent / "bin/curl").write_text("#!/bin/sh\nexit 22\n")
    cloud.run(status=22)
    assert not cloud.trained(0)


def test_new_code_takes_the_place_of_the_old_and_the_environment_stays(cloud):
    cloud.run()
    code = cloud.out / "bundle/code"
    (code / ".venv").mkdir()
    (code / "left over").touch()
    (cloud.root / "configs" / "run.py").write_text("def get_config(): pass\n")
    cloud.launch("host", "--extra=cpu", "--workdir=a run", "--allow-dirty")
    said = cloud.run()
    assert (code / ".venv").is_dir() and not (code / "left over").exists()
    assert (code / "configs/run.py").read_text() == "def get_config(): pass\n"
    assert (code / "SHIPPED_COMMIT").read_text().strip().endswith("+") and "+\n" in said


def test_an_installation_that_fails_is_a_fault_whatever_its_own_code(cloud):
    cloud.edit(prepare="'exit 2'", failures=1)
    cloud.run(status=1)
    assert not cloud.trained(0) and "1 faults so far" in (cloud.out / "logs/host_0.log").read_text()


def test_judges_of_the_environment_file_are_asked(cloud):
    (cloud.out / "bundle/hosts.env").write_text("endpoints=http://j:1,http://j:2\ntoken_env=JUDGE_TOKEN\n")
    cloud.run()
    doctor = [line for line in cloud.note("calls_0").splitlines() if line.startswith("doctor")]
    assert doctor[0].endswith("--endpoints=http://j:1,http://j:2 --token_env=JUDGE_TOKEN")


@pytest.mark.parametrize(
    ("platform", "environment", "preflight", "train"),
    [
        (
            "tpu_vm",
            {"FAKE_HOST": "1", "FAKE_HOSTS": "3"},
            "--coordinator=10.0.0.0:8482 --processes=3 --process=1 --hosts=10.0.0.0,10.0.0.1,10.0.0.2",
            "--processes=auto",
        ),
        (
            "jobset",
            {"FAKE_HOST": "1", "TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"},
            "--coordinator=a:8482 --processes=2 --process=1 --hosts=a,b",
            "--processes=auto",
        ),
        (
            "slurm",
            {"FAKE_HOST": "1", "SLURM_PROCID": "1", "SLURM_JOB_NODELIST": "node[0-1]"},
            "--coordinator=node0:8482 --processes=2 --process=1 --hosts=node0,node1",
            "--coordinator=node0:8482 --processes=2 --process=1",
        ),
        ("tpu_vm", {"FAKE_HOST": "0", "FAKE_HOSTS": "1"}, "", ""),  # a single host needs nobody
    ],
)
def test_a_host_of_many_says_which_one_it_is(cloud, platform, environment, preflight, train):
    cloud.edit(platform=platform, devices=4)
    cloud.run(environment=environment)
    host = environment["FAKE_HOST"]
    calls = [line for line in cloud.note(f"calls_{host}").splitlines() if not line.startswith("installed")]
    assert calls[0].partition("--deadline=600")[2].split() == [*preflight.split(), "--expect_devices=4"]
    assert calls[1].partition("/a run")[2].split() == train.split()
    assert (cloud.out / f"logs/host_{host}.log").exists()
