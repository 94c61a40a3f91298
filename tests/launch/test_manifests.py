"""What schedulers are given is held against their schemas: the JobSet and its pods, and the directives of sbatch.

The schema of the JobSet is our own, of the part that is used. It is itself held against the definition that kubernetes-sigs/jobset
publishes, where one is at hand: JOBSET_CRD=config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml.
"""

import copy
import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from fake_cloud import LAUNCHES, Cloud

SCHEMA = json.loads((Path(__file__).parent / "schemas/jobset.json").read_text())

# Of the sbatch manual (SLURM 22.05 and later): the names, and what their values look like.
DIRECTIVES = {
    "job-name": r"[a-z][-a-z0-9]*",
    "nodes": r"\d+",
    "ntasks-per-node": "1",
    "gpus-per-node": r"\d+",
    "exclusive": "",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
    "requeue": "",
    "signal": r"[A-Z]+@\d+",
    "open-mode": "append|truncate",
    "output": "/.*",
    "export": r"[A-Z_]+(,[A-Z_]+)*",
    "partition": r"\w+",
    "account": r"\w+",
    "qos": r"\w+",
}

VARIANTS = {
    "plain": (),
    "queued": ("--queue=team-queue", "--spot=true", "--namespace=team", "--account=trainer"),
    "one host": ("--type=v5litepod-8",),
    "secrets": ("--claim=shared-disk", "--pass_env=JUDGE_TOKEN,HF_TOKEN", "--failures=7"),
    "tpu7x": ("--type=tpu7x-16", "--name=ironwood"),
}


def manifest(tmp_path, *flags):
    cloud = Cloud(tmp_path)
    cloud.environment |= {"JUDGE_TOKEN": "x", "HF_TOKEN": "y"}
    cloud.launch("gke", *LAUNCHES["gke"], *flags)
    return yaml.safe_load((cloud.out / "jobset.yaml").read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_jobset_holds_against_its_schema(tmp_path, variant):
    made = manifest(tmp_path, *VARIANTS[variant])
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(made)
    (replicated,) = made["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    # What a schema cannot say: names refer to each other, and one pod takes the whole of one host.
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    (train,) = pod["containers"]
    assert train["resources"]["limits"] == train["resources"]["requests"]
    assert job["parallelism"] == job["completions"] and job["backoffLimit"] == 0
    assert {rule["onExitCodes"]["containerName"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule} == {train["name"]}


def test_the_topology_is_the_type_s(tmp_path):
    made = manifest(tmp_path, *VARIANTS["queued"])
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == 16 and pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "8x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert made["metadata"] | {"annotations": 0} == {
        "name": "run",
        "namespace": "team",
        "labels": {"kueue.x-k8s.io/queue-name": "team-queue"},
        "annotations": 0,
    }
    assert pod["serviceAccountName"] == "trainer"


def test_secrets_are_references(tmp_path):
    made = manifest(tmp_path, *VARIANTS["secrets"])
    pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["env"] == [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "run-env", "key": name}}} for name in ("JUDGE_TOKEN", "HF_TOKEN")
    ]
    assert pod["volumes"][-1] == {"name": "run", "persistentVolumeClaim": {"claimName": "shared-disk"}}


@pytest.mark.parametrize(
    ("message", "action"),
    [
        ("Container train for pod default/run-slice-0-1-x failed with exit code 2 matching FailJob rule at index 0", "FailJobSet"),
        (
            "Container train for pod default/run-slice-0-1-x failed with exit code 75 matching FailJob rule at index 0",
            "RestartJobSetAndIgnoreMaxRestarts",
        ),
        (
            "Pod default/run-slice-0-1-x has condition DisruptionTarget matching FailJob rule at index 1",
            "RestartJobSetAndIgnoreMaxRestarts",
        ),
        ("Job has reached the specified backoff limit", "RestartJobSet"),  # JobSet's own choice where no rule matches
    ],
)
def test_exit_codes_mean_in_a_jobset_what_they_mean_on_a_host(tmp_path, message, action):
    """The messages are those of Kubernetes' job controller; a rule holds where one of its patterns is found."""
    reason = "PodFailurePolicy" if "matching" in message else "BackoffLimitExceeded"
    policy = manifest(tmp_path)["spec"]["failurePolicy"]
    chosen = [
        rule["action"]
        for rule in policy["rules"]
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in rule["onJobFailureMessagePatterns"])
    ]
    assert (chosen or ["RestartJobSet"])[0] == action and policy["maxRestarts"] == 5


def _set(path, value):
    def change(made):
        for step in path[:-1]:
            made = made[step]
        made[path[-1]] = value

    return change


JOB = ("spec", "replicatedJobs", 0, "template", "spec")
POD = (*JOB, "template", "spec")


@pytest.mark.parametrize(
    "change",
    [
        _set(("apiVersion",), "jobset.x-k8s.io/v1"),
        _set(("spec", "failurePolicy", "maxRestart"), 3),
        _set(("spec", "failurePolicy", "rules", 0, "action"), "Fail"),
        _set(("spec", "failurePolicy", "rules", 0, "name"), "mistake-of-the-caller"),
        _set((*JOB, "parallelism"), "16"),
        _set((*JOB, "podFailurePolicy", "rules", 0, "onExitCodes", "values"), [0]),
        _set((*POD, "restartPolicy"), "OnFailure"),
        _set((*POD, "containers", 0, "command"), "bash on_host.sh"),
        _set((*POD, "containers", 0, "env"), [{"name": "JUDGE_TOKEN", "value": "secret"}]),
        _set((*POD, "nodeSelector", "cloud.google.com/gke-spot"), True),
        _set((*POD, "volumes", 0), {"name": "bundle"}),
        _set(("metadata", "name"), "Two Words"),
    ],
)
def test_the_schema_refuses_what_is_wrong(tmp_path, change):
    made = copy.deepcopy(manifest(tmp_path))
    change(made)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, SCHEMA)


@pytest.mark.skipif("JOBSET_CRD" not in os.environ, reason="JOBSET_CRD names no definition to compare with")
def test_the_schema_is_a_part_of_the_published_definition():
    (published,) = yaml.safe_load(Path(os.environ["JOBSET_CRD"]).read_text())["spec"]["versions"]

    def compare(ours, theirs, path):
        if "anyOf" in theirs or theirs.get("x-kubernetes-int-or-string"):
            return
        for name, inner in ours.get("properties", {}).items():
            assert name in theirs["properties"], f"{path}.{name} is not in the definition"
            compare(inner, theirs["properties"][name], f"{path}.{name}")
        if "items" in ours:
            compare(ours["items"], theirs["items"], f"{path}[]")
        if isinstance(ours.get("additionalProperties"), dict):
            compare(ours["additionalProperties"], theirs["additionalProperties"], f"{path}.*")
        assert "type" not in ours or ours["type"] == theirs["type"], path
        if "enum" in ours and "enum" in theirs:
            assert set(ours["enum"]) <= set(theirs["enum"]), path

    compare(SCHEMA["properties"]["spec"], published["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")
    assert published["name"] == SCHEMA["properties"]["apiVersion"]["const"].partition("/")[2]


@pytest.mark.parametrize("more", [(), ("--partition=gpu", "--account=lab", "--qos=long", "--pass_env=JUDGE_TOKEN")])
def test_sbatch_directives_are_in_its_manual_and_stand_before_any_command(tmp_path, more):
    cloud = Cloud(tmp_path)
    cloud.environment["JUDGE_TOKEN"] = "x"
    cloud.launch("slurm", *LAUNCHES["slurm"], *more)
    lines = (cloud.out / "job.sbatch").read_text().splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert lines[0] == "#!/usr/bin/env bash" and lines[1 : len(directives) + 1] == directives
    given = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in directives)
    assert len(given) == len(directives)
    for name, value in given.items():
        assert name in DIRECTIVES and re.fullmatch(DIRECTIVES[name], value), (name, value)
    assert given["gpus-per-node"] == "8" and given["signal"] == "TERM@120" and "requeue" in given
    assert ("JUDGE_TOKEN" in given["export"]) == bool(more) and "HOME" in given["export"]
