"""`run.sh` against stand-ins for the clouds: what is asked of them, what is started again, what the exit code says."""

import os
import signal
import subprocess
import time

import pytest
from fake_cloud import LAUNCHES, PATIENCE, Cloud


def launched(tmp_path, script, *more, **settings) -> Cloud:
    """Files that were made by a dry run, edited so that nothing waits."""
    cloud = Cloud(tmp_path)
    cloud.environment["JUDGE_TOKEN"] = "0123456789"
    cloud.launch(script, *LAUNCHES[script], "--pass_env=JUDGE_TOKEN", *more)
    cloud.edit(poll=0, longest_pause=0, longest_wait=0, **settings)
    return cloud


def log(cloud, host) -> str:
    return (cloud.out / f"logs/host_{host}.log").read_text()


# TPU VM ------------------------------------------------------------------------------------------------------------------------------


def test_a_tpu_vm_gets_the_code_starts_on_all_workers_and_its_logs_come_back(tmp_path):
    cloud = launched(tmp_path, "tpu_vm")
    cloud.plan(0, "75 0")
    cloud.plan(1, "1 0")
    said = cloud.run()
    assert "the run ended with exit code 0" in said
    for host in range(2):  # each restarted by itself, with the same command, and with the token
        first, second = cloud.trained(host)
        assert first == second == "train --config=configs/run.py --workdir=/mnt/disk/run --processes=auto"
        assert log(cloud, host).count(f"train of host {host}, token 10 letters") == 2
    asked = cloud.note("asked")
    assert asked.startswith("gcloud compute tpus tpu-vm describe slice --format=value(networkEndpoints.len()) --quiet --zone=us-west4-a\n")
    assert "gcloud compute tpus tpu-vm scp " in asked and "slice:launch/run/ --worker=all --quiet --zone=us-west4-a" in asked
    assert "--worker=1 --command=bash launch/run/on_host.sh start --quiet --zone=us-west4-a" in asked
    assert "0123456789" not in asked
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"0123456789" in path.read_bytes()]


def test_a_mistake_of_the_caller_on_one_worker_stops_all(tmp_path):
    cloud = launched(tmp_path, "tpu_vm")
    cloud.plan(0, "hang")
    cloud.plan(1, "2@0")
    cloud.run(status=2)
    assert "saved" in (cloud.fake / "host_0/launch/run/logs/host_0.log").read_text()
    assert len(cloud.trained(0)) == len(cloud.trained(1)) == 1


@pytest.mark.slow
def test_a_worker_that_was_killed_is_started_again(tmp_path):
    cloud = launched(tmp_path, "tpu_vm")
    cloud.plan(0, "hang 0")
    watching = subprocess.Popen(["bash", cloud.out / "run.sh"], env=cloud.environment, stdout=subprocess.PIPE, text=True)
    while not (cloud.fake / "training_0").exists():
        time.sleep(0.02)
    pid = int((cloud.fake / "host_0/launch/run/logs/host_0.pid").read_text())
    os.kill(pid, signal.SIGKILL)  # and training, which it leaves behind, is ended before it starts again
    said, _ = watching.communicate(timeout=PATIENCE)
    assert watching.returncode == 0 and "host 0 lost" in said and len(cloud.trained(0)) == 2
    while subprocess.run(["pgrep", "-g", str(pid)], capture_output=True).stdout:
        time.sleep(0.02)


def test_workers_that_do_not_answer_are_given_up(tmp_path):
    cloud = launched(tmp_path, "tpu_vm", patience=0)
    (cloud.fake / "unreachable").write_text("yes")
    cloud.run(status=75)
    assert cloud.trained(0) == []


def test_the_run_goes_on_without_its_watcher_and_stops_when_asked(tmp_path):
    cloud = launched(tmp_path, "tpu_vm")
    cloud.plan(0, "hang")
    cloud.plan(1, "hang")
    watching = subprocess.Popen(["bash", cloud.out / "run.sh"], env=cloud.environment, stdout=subprocess.PIPE)
    while not ((cloud.fake / "training_0").exists() and (cloud.fake / "training_1").exists()):
        time.sleep(0.02)
    watching.send_signal(signal.SIGKILL)
    watching.communicate()
    again = subprocess.Popen(["bash", cloud.out / "run.sh", "watch"], env=cloud.environment, stdout=subprocess.PIPE, text=True)
    assert "host 0 running" in "".join(again.stdout.readline() for _ in range(6))
    cloud.run("stop")
    again.communicate()
    assert again.returncode == 75
    ends = time.monotonic() + PATIENCE
    while not all((cloud.fake / f"host_{host}/launch/run/logs/host_{host}.state").read_text() == "exit 75\n" for host in range(2)):
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert [len(cloud.trained(host)) for host in range(2)] == [1, 1]


# queued resource -----------------------------------------------------------------------------------------------------------------------


def queued(tmp_path, states, *more, node="READY", **settings):
    """A slice whose states are told one after another, each time that somebody asks."""
    cloud = launched(tmp_path, "queued_resource", *more, **settings)
    (cloud.fake / "states").write_text("\n".join(states) + "\n")
    (cloud.fake / "node").write_text(node + "\n")
    return cloud


def verbs(cloud):
    """What was asked of queued resources, `describe` aside."""
    lines = [line.partition("queued-resources ")[2] for line in cloud.note("asked").splitlines() if "queued-resources" in line]
    return [line.split()[0] for line in lines if not line.startswith("describe")]


def test_a_slice_is_asked_for_waited_for_and_used(tmp_path):
    cloud = queued(tmp_path, ["MISSING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], "--wait=6h", "--project=p")
    cloud.run()
    assert verbs(cloud) == ["create"] and len(cloud.trained(0)) == len(cloud.trained(1)) == 1
    assert (
        "gcloud compute tpus queued-resources create slice --quiet --zone=us-west4-a --project=p --node-id=slice "
        "--accelerator-type=v5litepod-64 --runtime-version=v2-alpha-tpuv5-lite --spot --valid-until-duration=6h\n" in cloud.note("asked")
    )


@pytest.mark.parametrize(("capacity", "flag"), [("spot", " --spot"), ("reserved", " --reserved"), ("on-demand", "")])
def test_capacity_is_a_flag_or_none(tmp_path, capacity, flag):
    cloud = queued(tmp_path, ["MISSING", "ACTIVE"], f"--capacity={capacity}")
    cloud.run()
    assert f"--runtime-version=v2-alpha-tpuv5-lite{flag}\n" in cloud.note("asked")


def test_a_preempted_slice_is_given_back_and_asked_for_again(tmp_path):
    states = ["ACTIVE", "SUSPENDING", "SUSPENDED", "SUSPENDED", "MISSING", "PROVISIONING", "ACTIVE"]
    cloud = queued(tmp_path, states, node="REPAIRING", restarts=0)
    cloud.plan(0, "75 0")
    cloud.plan(1, "75@0 0")
    cloud.run()
    assert verbs(cloud) == ["delete", "create"] and len(cloud.trained(0)) == 2
    assert "queued-resources delete slice --quiet --zone=us-west4-a --force" in cloud.note("asked")


def test_a_preempted_node_is_seen_before_its_resource_says_so(tmp_path):
    cloud = queued(tmp_path, ["ACTIVE", "ACTIVE", "MISSING", "ACTIVE"], node="PREEMPTED", restarts=0)
    cloud.plan(0, "75 0")
    cloud.run()
    assert verbs(cloud) == ["delete", "create"]


def test_a_slice_that_cannot_be_had_is_given_up_in_the_end(tmp_path):
    cloud = queued(tmp_path, ["FAILED"] * 9, recreate=2)
    cloud.run(status=1)
    assert verbs(cloud) == ["delete", "delete"]


def test_faults_on_a_sound_slice_are_bounded(tmp_path):
    cloud = queued(tmp_path, ["ACTIVE"] * 20, failures=0, faults=2)
    cloud.plan(0, "3 3 3 3 3 3")
    cloud.run(status=3)
    assert verbs(cloud) == [] and len(cloud.trained(0)) == 3


def test_a_mistake_of_the_caller_is_not_tried_on_another_slice(tmp_path):
    cloud = queued(tmp_path, ["ACTIVE"] * 20)
    cloud.plan(0, "2")
    cloud.plan(1, "2@0")
    cloud.run(status=2)
    assert verbs(cloud) == [] and len(cloud.trained(0)) == 1


def test_a_run_that_was_stopped_by_hand_is_not_started_again(tmp_path):
    cloud = queued(tmp_path, ["ACTIVE"])
    cloud.plan(0, "hang")
    process = subprocess.Popen(["bash", cloud.out / "run.sh"], env=cloud.environment, stdout=subprocess.PIPE)
    while not (cloud.fake / "training_0").exists():
        time.sleep(0.02)
    subprocess.run(["bash", cloud.out / "run_tpu_vm.sh", "stop"], env=cloud.environment, check=True)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 75 and len(cloud.trained(0)) == 1 and verbs(cloud) == []


# GKE and xpk -------------------------------------------------------------------------------------------------------------------------


def test_gke_gets_the_bundle_the_secret_and_the_jobset_and_is_watched(tmp_path):
    cloud = launched(tmp_path, "gke", "--namespace=team")
    (cloud.fake / "states").write_text("restarts=0\nnone\nrestarts=2\nCompleted=AllJobsCompleted restarts=2\n")
    said = cloud.run()
    asked = cloud.note("asked")
    assert "gcloud storage cp " in asked and "/hosts.env gs://bucket/code/run/\n" in asked
    assert "create secret generic run-env --from-env-file=/dev/stdin --dry-run=client -o yaml\n" in asked
    assert "\nJUDGE_TOKEN=(hidden)\n" in asked and "kubectl --namespace=team apply -f -\n" in asked
    assert f"kubectl --namespace=team create -f {cloud.out}/jobset.yaml" in asked and "restarts=2" in said
    assert "0123456789" not in asked and log(cloud, 1).startswith("a line of 1 --tail=-1") and "--since-time=" in asked
    assert len(list((cloud.out / "logs").glob("host_*.log"))) == 16


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("Completed=AllJobsCompleted restarts=0", 0),
        ("Failed=FailJobSetFailurePolicyAction restarts=0", 2),
        ("Failed=ReachedMaxRestarts restarts=5", 1),
    ],
)
def test_how_a_jobset_ended_is_the_exit_code(tmp_path, state, status):
    cloud = launched(tmp_path, "gke", "--type=v6e-8")
    (cloud.fake / "states").write_text(f"restarts=0\n{state}\n")
    cloud.run("watch", status=status)
    assert " create " not in cloud.note("asked")


def test_a_cluster_that_does_not_answer_is_given_up(tmp_path):
    cloud = launched(tmp_path, "gke", "--type=v6e-8", patience=0)
    (cloud.fake / "states").write_text("none\n" * 9)
    cloud.run(status=75)


def test_stopping_deletes_the_jobset(tmp_path):
    cloud = launched(tmp_path, "gke")
    cloud.run("stop")
    assert cloud.note("asked") == "kubectl --namespace=default delete jobset run\n"


def test_in_a_pod_the_cluster_restarts_and_not_the_host(tmp_path):
    cloud = launched(tmp_path, "gke")
    for code in ("75", "1", "2", "0"):
        cloud.plan(0, code)
        environment = cloud.environment | {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "a,b"}
        done = subprocess.run(["bash", cloud.out / "bundle/on_host.sh", "run"], env=environment, capture_output=True, text=True)
        assert done.returncode == int(code) and f"host 0: ends with exit code {code}" in done.stdout
    assert len(cloud.trained(0)) == 4


def test_xpk_builds_the_bundle_in_and_is_told_what_restarts(tmp_path):
    cloud = launched(tmp_path, "xpk", "--restarts=50", "--type=tpu7x-16")
    (cloud.fake / "states").write_text("Completed=AllJobsCompleted restarts=0\n")
    cloud.run()
    assert cloud.note("asked").splitlines()[0] == (
        "xpk workload create --cluster=c --project=p --zone=z --workload=run --tpu-type=tpu7x-16 --num-slices=1 "
        "--base-docker-image=python:3.12 --priority=medium --max-restarts=50 --restart-on-exit-codes=1,75 "
        "--termination-grace-period-seconds=120 --storage=runs --command=exec bash on_host.sh run --no-use-parallel-containers "
        f"--script-dir={cloud.out}/bundle --env-file={cloud.out}/xpk.env"
    )
    assert (cloud.out / "xpk.env").read_text().splitlines()[1:] == ["JUDGE_TOKEN"]


# SLURM -------------------------------------------------------------------------------------------------------------------------------


def test_a_slurm_job_meets_over_the_first_node(tmp_path):
    cloud = launched(tmp_path, "slurm", "--partition=gpu", "--account=lab")
    cloud.plan(1, "1 0")
    cloud.run()
    coordinates = "--coordinator=node0:8482 --processes=2 --process=1"
    assert cloud.trained(1) == [f"train --config=configs/run.py --workdir=/shared/run {coordinates}"] * 2
    assert log(cloud, 0).count("train of host 0") == 1 and (cloud.out / "job_id").read_text() == "7\n"
    assert "scontrol requeue" not in cloud.note("asked") and "srun --kill-on-bad-exit=1 bash" in cloud.note("asked")
    installed = [line for host in range(2) for line in cloud.note(f"calls_{host}").splitlines() if line == "installed cuda"]
    assert installed


def test_a_slurm_job_whose_time_is_up_queues_itself_again(tmp_path):
    """Hosts end with 75 after SIGTERM; in the next run of the job they go on."""
    cloud = launched(tmp_path, "slurm")
    cloud.edit(restarts=0)  # of the host: as if it had been signalled
    script = cloud.out / "job.sbatch"
    script.write_text(script.read_text().replace("restarts=0", "restarts=3"))
    cloud.plan(0, "75 75 0")
    cloud.plan(1, "75 75 0")
    cloud.run()
    assert cloud.note("asked").count("scontrol requeue 7") == 2 and len(cloud.trained(0)) == 3


def test_a_slurm_job_does_not_queue_itself_for_ever(tmp_path):
    cloud = launched(tmp_path, "slurm")
    cloud.edit(restarts=0)
    script = cloud.out / "job.sbatch"
    script.write_text(script.read_text().replace("restarts=0", "restarts=2"))
    cloud.plan(0, "75 " * 9)
    cloud.run(status=75)
    assert cloud.note("asked").count("scontrol requeue 7") == 2


def test_a_mistake_behind_a_stop_is_seen_by_the_slurm_job(tmp_path):
    cloud = launched(tmp_path, "slurm")
    cloud.edit(restarts=0)
    cloud.plan(0, "75")
    cloud.plan(1, "2")
    cloud.run(status=2)
    assert "scontrol requeue" not in cloud.note("asked")


@pytest.mark.parametrize("script", ["tpu_vm", "gke", "xpk", "slurm"])
def test_a_run_without_its_secret_is_not_started(tmp_path, script):
    cloud = launched(tmp_path, script)
    del cloud.environment["JUDGE_TOKEN"]
    cloud.run(status=2)
    assert cloud.note("asked") == ""


def test_run_starts_what_was_printed(tmp_path):
    """--run, on one host: the dry run's files, then the run itself."""
    cloud = Cloud(tmp_path)
    said = cloud.launch("host", *LAUNCHES["host"], "--run")
    assert f"===== bash {cloud.out}/run.sh\n" in said and "host 0: ends with exit code 0" in said
    assert "A dry run" not in said and len(cloud.trained(0)) == 1
