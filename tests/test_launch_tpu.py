"""Queued resources against a gcloud that plays them: what is run, and what comes of it."""

import shlex
import subprocess
import sys
import time

import pytest
from cloud import SECRET, Cloud

CLOUD = ["--name", "one", "--project", "my-project", "--zone", "us-east5-b"]
FLAGS = ["--accelerator", "v6e-8", "--workdir", "gs://bucket/runs/one", "--poll", "0"]
TRAIN = ["--", "train", "--config", "configs/demo.py", "--config.prompt=it's $HOME"]
DONE = {"request": ["ACTIVE"], "slices": [["READY"]], "exit_codes": [[0, 0]]}


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def up(cloud, *more, command=TRAIN, **scenario):
    return cloud.launch("tpu", "up", *CLOUD, *FLAGS, *more, *command, **scenario)


def test_ready_runs_on_every_worker_and_deletes_the_machines(cloud):
    done = up(
        cloud, lives=[{**DONE, "request": ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]}]
    )
    assert done.returncode == 0, done.stderr
    assert "launch: one: WAITING_FOR_RESOURCES\nlaunch: one: PROVISIONING\n" in done.stdout
    assert "one is done (exit code 0)" in done.stdout
    homes = sorted((cloud.state / "life-0").iterdir())
    assert [home.name for home in homes] == ["one-w-0", "one-w-1"]
    for home in homes:
        assert (home / "arguments").read_text().splitlines() == [
            "train", "--config", "configs/demo.py", "--config.prompt=it's $HOME",
            "--workdir=gs://bucket/runs/one",
        ]  # fmt: skip
        assert "BLIP_JAX_DISTRIBUTED=1\n" in (home / "environment").read_text()
        assert (home / "blip_jax-one/code/configs/demo.py").read_text() == "# a config\n"
        assert (home / "blip_jax-one/log").read_text() == "the job says hello\n"
        assert SECRET not in (home / "one.sh").read_text()
    uploads = [call[-1] for call in cloud.calls() if call[1] == "storage"]
    assert (
        sorted(target.partition("-w-")[0] for target in uploads)
        == ["gs://bucket/runs/one/logs/one/one"] * 2
    )
    assert cloud.verbs()[-1] == "delete"


def test_a_dry_run_prints_what_is_then_run(cloud):
    dry = up(cloud, "--dry-run")
    assert dry.returncode == 0 and not cloud.calls() and not (cloud.repo / "runs").exists()
    shown = dry.stdout.replace("\\\n", " ").splitlines()
    shown = [shlex.split(line)[1:] for line in shown if line.startswith("gcloud ")]
    assert up(cloud, lives=[DONE]).returncode == 0
    script = (cloud.repo / "runs/launch/one/one.sh").read_text()
    assert f"<<'END_OF_FILE'\n{script}END_OF_FILE\n" in dry.stdout
    ran = [call[1:] for call in cloud.calls() if call[1] == "compute"]
    once = [call for i, call in enumerate(ran) if call not in ran[:i]]
    assert once == [call for i, call in enumerate(shown) if call not in shown[:i]]


def test_preempted_machines_are_replaced_and_the_job_goes_on(cloud):
    preempted = {
        "request": ["ACTIVE"] * 3 + ["SUSPENDED"], "slices": [["READY"]],
        "exit_codes": [["forever", "forever"]],
    }  # fmt: skip
    done = up(cloud, "--spot", lives=[preempted, DONE])
    assert done.returncode == 0, done.stdout
    assert "one is SUSPENDED" in done.stdout and "restart 1 of at most 20" in done.stdout
    verbs = cloud.verbs()
    assert verbs.count("create") == verbs.count("delete") == verbs.count("ssh start") == 2
    assert (cloud.state / "life-1/one-w-1/arguments").exists()


def test_a_preempted_slice_counts_before_the_failure_it_caused(cloud):
    broken = {
        "request": ["ACTIVE"], "slices": [["READY"]] * 2 + [["PREEMPTED"]],
        "exit_codes": [[1, 1]],
    }  # fmt: skip
    done = up(cloud, lives=[broken, DONE])
    assert done.returncode == 0 and "one is PREEMPTED" in done.stdout


def test_stopped_after_saving_is_started_again_on_the_same_machines(cloud):
    life = {**DONE, "exit_codes": [[42, 42], [42, 143], [0, 0]]}
    done = up(cloud, lives=[life])
    assert done.returncode == 0 and done.stdout.count("was stopped (exit code 42)") == 2
    verbs = cloud.verbs()
    assert verbs.count("create") == 1 and verbs.count("ssh start") == 3


@pytest.mark.parametrize(("codes", "code"), [([2, "forever"], 2), ([0, 1], 1), ([134, 1], 1)])
def test_failures_are_not_tried_again(cloud, codes, code):
    done = up(cloud, lives=[{**DONE, "exit_codes": [codes]}])
    assert done.returncode == code and f"(exit code {code})" in done.stdout
    assert "one-w-0: the job says hello" in done.stdout  # the logs, before the machines go
    verbs = cloud.verbs()
    assert verbs.count("ssh start") == 1 and verbs[-3:] == ["ssh log", "describe", "delete"]


def test_restarts_have_an_end(cloud):
    done = up(cloud, "--max-restarts", "2", lives=[{**DONE, "exit_codes": [[42, 42]]}])
    assert done.returncode == 1 and "one was restarted 2 times; gave up" in done.stdout
    assert cloud.verbs().count("ssh start") == 3 and cloud.verbs()[-1] == "delete"


def test_quota_is_told_in_gclouds_words_and_nothing_is_left(cloud):
    error = "RESOURCE_EXHAUSTED: Quota limit 'TPUV6EPreemptiblePerProjectPerZone' has been exceeded"
    done = up(cloud, lives=[DONE], create_error=error)
    assert done.returncode == 1 and f"one was not created: ERROR: (gcloud) {error}" in done.stdout
    assert cloud.verbs() == ["describe", "create", "describe"]


def test_a_request_that_fails_is_deleted(cloud):
    life = {
        **DONE,
        "request": ["PROVISIONING", "FAILED"],
        "message": "no more capacity in the zone",
    }
    done = up(cloud, lives=[life])
    assert done.returncode == 1 and "one was refused: no more capacity in the zone" in done.stdout
    assert cloud.verbs()[-1] == "delete" and "scp" not in cloud.verbs()


SLICES = {"request": ["ACTIVE"], "exit_codes": [[0] * 4]}


def test_nothing_starts_before_every_slice_is_ready(cloud):
    partial = {**SLICES, "slices": [["READY"], ["READY", "CREATING"], ["READY", "READY"]]}
    done = up(cloud, "--slices", "2", lives=[partial])
    assert done.returncode == 0 and done.stdout.count("1 of 2 slices are ready") == 2
    verbs = cloud.verbs()
    assert verbs[: verbs.index("scp")].count("list") == 3
    assert len(list((cloud.state / "life-0").iterdir())) == 4


def test_slices_that_never_get_ready_are_replaced(cloud):
    stuck = {**SLICES, "slices": [["READY", "CREATING"]]}
    done = up(cloud, "--slices", "2", lives=[stuck, {**SLICES, "slices": [["READY", "READY"]]}])
    assert done.returncode == 0 and "1 of 2 slices are ready for too long" in done.stdout
    assert cloud.verbs().count("delete") == 2


def test_maintenance_is_waited_for(cloud):
    looks = [["READY"]] * 2 + [["REPAIRING"]] * 3 + [["READY"]]
    done = up(cloud, lives=[{**DONE, "slices": looks, "exit_codes": [[137, 137], [0, 0]]}])
    assert done.returncode == 0 and cloud.verbs().count("create") == 1


def test_ssh_that_fails_once_is_tried_again(cloud):
    done = up(cloud, lives=[{**DONE, "unreachable": {"one-w-1": 1}}])
    assert done.returncode == 0 and "that ended with 255 on some worker" in done.stdout
    assert cloud.verbs().count("scp") == 2 and cloud.verbs().count("create") == 1


def test_a_worker_that_stays_unreachable_costs_its_machines(cloud):
    done = up(cloud, lives=[{**DONE, "unreachable": {"one-w-1": -1}}, DONE])
    assert done.returncode == 0 and "1 of 2 workers can be reached" in done.stdout
    assert cloud.verbs().count("create") == cloud.verbs().count("delete") == 2


def test_a_worker_that_falls_silent_costs_its_machines(cloud):
    quiet = {**DONE, "exit_codes": [["forever", "forever"]], "silent": ["one-w-1"]}
    done = up(cloud, lives=[quiet, DONE])
    assert done.returncode == 0 and "1 of 2 workers answer for too long" in done.stdout


def test_no_ssh_at_all_is_said_and_not_repeated(cloud):
    life = {**DONE, "unreachable": {"one-w-0": -1, "one-w-1": -1}}
    done = up(cloud, lives=[life])
    assert done.returncode == 1 and "no worker can be reached by ssh" in done.stdout
    assert cloud.verbs().count("create") == 1 and cloud.verbs()[-1] == "delete"


def test_a_running_job_is_not_deleted_because_it_is_not_seen(cloud):
    life = {**DONE, "exit_codes": [["forever"] * 2], "silent": ["one-w-0", "one-w-1"]}
    done = up(cloud, lives=[life])
    assert done.returncode == 1 and "the machines are left" in done.stderr
    assert "delete" not in cloud.verbs()
    assert cloud.launch("tpu", "down", *CLOUD).returncode == 0
    assert cloud.verbs()[-1] == "delete"


def test_gcloud_that_fails_for_a_while_is_asked_again(cloud):
    done = up(cloud, lives=[DONE], fail={"list": 3})
    assert done.returncode == 0 and done.stdout.count("gcloud failed, and is asked again") == 3


def test_gcloud_that_never_answers_is_said_at_once(cloud):
    done = up(cloud, lives=[DONE], fail={"describe": 1})
    assert done.returncode == 1 and "refreshing your current auth tokens" in done.stderr
    assert cloud.verbs() == ["describe"]


def test_code_that_does_not_install_is_not_tried_for_ever(cloud):
    worker = cloud.bin / "worker/uv"
    worker.write_text("#!/usr/bin/env bash\necho no such package >&2\nexit 1\n")
    done = up(cloud, lives=[DONE])
    assert done.returncode == 1 and "the workers could not be set up" in done.stdout
    assert cloud.verbs().count("ssh install") == 3 and cloud.verbs()[-1] == "delete"


def test_up_joins_a_job_that_runs_and_keep_leaves_the_machines(cloud):
    life = {**DONE, "exit_codes": [["forever", "forever"], [0, 0]]}
    cloud.play(lives=[life])
    first = subprocess.Popen(
        [sys.executable, "-m", "launch", "tpu", "up", *CLOUD, *FLAGS, "--poll", "60", *TRAIN],
        cwd=cloud.repo, env=cloud.environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    homes = [cloud.state / "life-0/one-w-0", cloud.state / "life-0/one-w-1"]
    wait_for(lambda: all((home / "arguments").exists() for home in homes))
    time.sleep(1)  # it is between two looks now
    first.kill()  # the laptop is closed
    first.wait()
    status = cloud.launch("tpu", "status", *CLOUD)
    assert status.returncode == 0 and "one: ACTIVE" in status.stdout
    assert "one: READY, 2 workers" in status.stdout and "one-w-1: running" in status.stdout
    for home in homes:  # SIGTERM to the script reaches the job
        subprocess.run(["kill", (home / "blip_jax-one/pid").read_text().strip()], check=True)
    wait_for(lambda: all((home / "blip_jax-one/exit").exists() for home in homes))
    assert "one-w-0: 42" in cloud.launch("tpu", "status", *CLOUD).stdout
    logs = cloud.launch("tpu", "logs", *CLOUD, "--lines", "1")
    assert "one-w-1: the job says hello" in logs.stdout
    second = up(cloud, "--keep")
    assert second.returncode == 0 and "one is there already" in second.stdout
    assert "python -m launch tpu down --name one" in second.stdout
    assert "delete" not in cloud.verbs()


def test_clean_up_that_fails_is_said_with_the_command_that_cleans_up(cloud):
    done = up(cloud, lives=[DONE], delete_error="INTERNAL")
    assert done.returncode == 1
    assert "was not deleted and costs until: python -m launch tpu down" in done.stdout


def test_down_of_nothing_is_no_failure(cloud):
    done = cloud.launch("tpu", "down", *CLOUD)
    assert done.returncode == 0 and "there is nothing to delete" in done.stdout


def wait_for(condition):
    for _ in range(100):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within 10 s")
