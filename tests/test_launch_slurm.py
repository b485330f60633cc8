"""The sbatch script, run by a shell with an srun that ends as it is told."""

import subprocess

import pytest
from cloud import Cloud


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def up(cloud, *more):
    folder = str(cloud.state.parent / "shared")
    flags = ["--name", "pretrain", "--workdir", folder, "--max-restarts", "3", *more]
    worker = cloud.bin / "worker"
    (cloud.bin / "uv").write_text((worker / "uv").read_text())
    (cloud.bin / "uv").chmod(0o755)
    return cloud.launch("slurm", "up", *flags, "--", "train", "--config", "configs/demo.py")


def names(cloud):
    return [call[0] for call in cloud.calls()]


def test_code_environment_and_script_are_there_before_it_is_submitted(cloud):
    done = up(cloud)
    assert done.returncode == 0, done.stderr
    place = cloud.state.parent / "shared/launch/pretrain"
    assert cloud.calls()[-1] == ["sbatch", f"{place}/job.sh"]
    assert (place / "code/configs/demo.py").exists() and (place / "code/.venv/bin").is_dir()
    assert (place / "logs").is_dir()


@pytest.mark.parametrize(
    ("code", "restarts", "ends_with", "queued_again"),
    [("0", "0", 0, False), ("2", "0", 2, False), ("1", "0", 1, False), ("42", "0", 0, True),
     ("42", "2", 0, True), ("42", "3", 42, False), ("137", "0", 137, False)],
)  # fmt: skip
def test_only_what_was_saved_is_queued_again(cloud, code, restarts, ends_with, queued_again):
    assert up(cloud).returncode == 0
    environment = cloud.environment(SRUN_CODE=code, SLURM_RESTART_COUNT=restarts, SLURM_JOB_ID="7")
    script = cloud.state.parent / "shared/launch/pretrain/job.sh"
    done = subprocess.run(["bash", script], env=environment, check=False, capture_output=True)
    assert done.returncode == ends_with
    assert (cloud.calls()[-1] == ["scontrol", "requeue", "7"]) == queued_again
    srun = next(call for call in cloud.calls() if call[0] == "srun")
    workdir = f"--workdir={cloud.state.parent}/shared"
    at = srun.index(".venv/bin/blip-jax")
    assert srun[at + 1 :] == ["train", "--config", "configs/demo.py", workdir]


def test_a_name_that_is_queued_is_not_submitted_twice(cloud, monkeypatch):
    monkeypatch.setenv("SQUEUE_SAYS", "7 gpu pretrain me R 1:00 4 node[1-4]")
    done = up(cloud)
    assert done.returncode == 2 and "pretrain is queued or running already" in done.stderr
    assert names(cloud) == ["squeue"]


def test_sbatch_that_refuses_is_said(cloud, monkeypatch):
    monkeypatch.setenv("SBATCH_CODE", "1")
    done = up(cloud)
    assert done.returncode == 1 and "sbatch ended with 1; pretrain was not submitted" in done.stderr


def test_status_and_down_name_the_job(cloud):
    for verb in ("status", "down"):
        done = cloud.launch("slurm", verb, "--name", "pretrain", "--workdir", "/shared/one")
        assert done.returncode == 0 and "--name=pretrain" in cloud.calls()[-1]


def test_a_program_that_is_not_there_is_named(cloud):
    (cloud.bin / "sky").unlink()
    done = cloud.launch("sky", "status", "--name", "pretrain")
    assert done.returncode == 1 and "there is no program sky on the PATH" in done.stderr
