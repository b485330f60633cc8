"""JobSets against a kubectl that plays them."""

import pytest
from cloud import Cloud

FLAGS = "--accelerator v6e --topology 4x4 --slices 2 --poll 0 --workdir gs://bucket/runs/one"
UP = ["gke", "up", "--name", "pretrain", *FLAGS.split(), "--image"]
IMAGE = "us-docker.pkg.dev/my-project/blip/blip-jax"
TRAIN = ["--", "train", "--config", "configs/demo.py"]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def status(ready=2, restarts=0, **ends):
    conditions = [{"type": kind, "status": "True", "message": m} for kind, m in ends.items()]
    jobs = [{"name": "slice", "ready": ready}]
    return {"conditions": conditions, "restarts": restarts, "replicatedJobsStatus": jobs}


COMPLETED = status(Completed="jobset completed successfully")


def verbs(cloud):
    return [" ".join(call[:2]) for call in cloud.calls()]


def test_image_manifest_wait_and_clean_up(cloud):
    looks = [status(0), status(1), status(2), status(0, 1), status(2, 1), COMPLETED]
    done = cloud.launch(*UP, IMAGE, *TRAIN, statuses=looks)
    assert done.returncode == 0, done.stderr
    told = [line.partition(": ")[2] for line in done.stdout.splitlines() if "launch:" in line]
    assert told == [
        "pretrain: 0 of 2 slices are ready", "pretrain: 1 of 2 slices are ready",
        "pretrain: 2 of 2 slices are ready", "pretrain: 0 of 2 slices are ready, restart 1 of 20",
        "pretrain: 2 of 2 slices are ready, restart 1 of 20", "pretrain is done (exit code 0)",
    ]  # fmt: skip
    assert verbs(cloud)[:3] == ["docker build", "docker push", "kubectl apply"]
    assert verbs(cloud)[-1] == "kubectl delete"
    tag = cloud.calls()[1][-1]
    manifest = (cloud.repo / "runs/launch/pretrain/jobset.yaml").read_text()
    assert tag.startswith(f"{IMAGE}:") and f'image: "{tag}"' in manifest


def test_an_image_with_a_tag_is_used_as_it_is(cloud):
    done = cloud.launch(*UP, f"{IMAGE}:stable", "--keep", *TRAIN, statuses=[COMPLETED])
    assert done.returncode == 0 and set(verbs(cloud)) == {"kubectl apply", "kubectl get"}


@pytest.mark.parametrize("code", [1, 2])
def test_failures_end_with_the_jobs_own_code_and_logs(cloud, code):
    pod = {"status": {"containerStatuses": [{"state": {"terminated": {"exitCode": code}}}]}}
    waiting = {"status": {"containerStatuses": [{"state": {"waiting": {}}}]}}
    failed = status(Failed="jobset failed due to FailJobSet")
    done = cloud.launch(
        *UP, f"{IMAGE}:1", *TRAIN, statuses=[status(), failed], pods=[waiting, pod, {}]
    )
    assert done.returncode == code and f"pretrain failed (exit code {code})" in done.stdout
    assert "[pod/pretrain-slice-0-0] the job says hello" in done.stdout
    assert verbs(cloud)[-2:] == ["kubectl logs", "kubectl delete"]


def test_quota_is_told_in_kubectls_words(cloud):
    error = "Error from server (Forbidden): exceeded quota: tpu-quota, requested: google.com/tpu=16"
    done = cloud.launch(*UP, f"{IMAGE}:1", *TRAIN, apply_error=error)
    assert done.returncode == 1 and f"pretrain was not created: {error}" in done.stderr
    assert verbs(cloud) == ["kubectl apply"]


def test_a_cluster_that_is_away_for_a_while_is_asked_again(cloud):
    away = "Unable to connect to the server: dial tcp: i/o timeout"
    done = cloud.launch(*UP, f"{IMAGE}:1", *TRAIN, statuses=[away, away, COMPLETED])
    assert done.returncode == 0
    done = cloud.launch(*UP, f"{IMAGE}:1", *TRAIN, statuses=[away])
    assert done.returncode == 1 and away in done.stderr and verbs(cloud)[-1] != "kubectl delete"


def test_a_jobset_that_somebody_deleted_is_not_waited_for(cloud):
    gone = 'Error from server (NotFound): jobsets.jobset.x-k8s.io "pretrain" not found'
    done = cloud.launch(*UP, f"{IMAGE}:1", *TRAIN, statuses=[status(), gone])
    assert done.returncode == 1 and "pretrain was deleted" in done.stderr


def test_docker_that_fails_stops_before_the_cluster(cloud, monkeypatch):
    monkeypatch.setenv("DOCKER_CODE", "1")
    done = cloud.launch(*UP, IMAGE, *TRAIN, statuses=[COMPLETED])
    assert done.returncode == 1 and "docker build ended with 1" in done.stderr
    assert verbs(cloud) == ["docker build"]


@pytest.mark.parametrize("verb", ["status", "logs", "down"])
def test_the_other_verbs(cloud, verb):
    done = cloud.launch("gke", verb, "--name", "pretrain", statuses=[COMPLETED])
    assert done.returncode == 0 and cloud.calls()[-1][-1] == "--namespace=default"
