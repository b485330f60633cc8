"""The console script: the whole loop at tiny size, and one sentence for each mistake."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import blip_jax
from blip_jax import cli

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "configs/demo.py"
# Small enough to compile in seconds; every stage still runs.
SMALL = [
    "--config.world.num_web=40", "--config.world.num_clean=20", "--config.world.num_val=12",
    "--config.pretrain.steps=4", "--config.captioner.steps=2", "--config.filter.steps=2",
    "--config.pretrain.batch_size=16", "--config.captioner.batch_size=16",
    "--config.filter.batch_size=16", "--config.capfilt.threshold=0.0",
    "--config.pretrain.checkpoint_every=2", "--config.model.vision.width=32",
    "--config.model.vision.mlp_width=64", "--config.model.text.width=32",
    "--config.model.text.mlp_width=64", "--config.model.text.depth=1",
    "--config.model.vision.depth=1", "--config.model.unroll=1",
]  # fmt: skip


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(argv))
    return stop.value.code, capsys.readouterr().err.strip()


def test_unknown_config_key_names_the_nearest(capsys, tmp_path):
    code, error = fails(
        capsys,
        "bootstrap",
        f"--config={DEMO}",
        "--config.pretrain.stepz=3",
        f"--workdir={tmp_path}",
    )
    assert code == 2 and "stepz" in error and "steps" in error and "\n" not in error


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["bootsrap"], "did you mean 'bootstrap'?"),
        (["bootstrap"], "--config is needed"),
        (["bootstrap", "--config", str(DEMO), "--wokdir=x"], "did you mean 'workdir'?"),
        (["bootstrap", "--config", f"{DEMO}:huge", "--workdir=x"], "no variant 'huge'"),
        (["caption", "--model=nowhere", "x.png"], "nowhere is no file, no folder"),
        (["caption", "--model=nowhere"], "at least one image"),
    ],
)
def test_mistakes_are_told_in_one_sentence(capsys, argv, sentence):
    code, error = fails(capsys, *argv)
    assert code == 2 and sentence in error and len(error.splitlines()) == 1


def bootstrap(workdir, *more):
    command = [sys.executable, "-m", "blip_jax", "bootstrap", f"--config={DEMO}"]
    return subprocess.run(
        [*command, f"--workdir={workdir}", *SMALL, *more],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_the_whole_loop_runs_resumes_and_refuses_another_config(tmp_path):
    done = bootstrap(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for number in (0, 1):
        scores = json.loads((tmp_path / f"round{number}/pretrain/evaluation.json").read_text())
        assert 0 <= scores["scores"]["caption_truth"] <= 1 and len(scores["captions"]) == 12
    page = (tmp_path / "report.html").read_text()
    assert "data:image" in page and "http://" not in page and "https://" not in page

    model = tmp_path / "round1/pretrain/model/model.safetensors"
    before = model.read_bytes()
    (tmp_path / "report.html").unlink()
    shutil.rmtree(tmp_path / "round1/pretrain/model")
    again = bootstrap(tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert model.read_bytes() == before and (tmp_path / "report.html").exists()

    other = bootstrap(tmp_path, "--config.seed=5")
    assert other.returncode == 2 and "another config (seed differ)" in other.stderr


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


ORDER = [  # a room may import itself and those to its right
    "cli", "cli_images", "cli_serve", "cli_convert", "cli_evaluate", "cli_data", "cli_capfilt",
    "cli_capfilt_filter", "cli_flags", "serve", "bootstrap", "compiling", "training", "capfilt",
    "evaluate", "tasks", "train", "model", "interop", "inference", "generation", "losses", "models",
    "page", "data", "tokenizer", "metrics", "files", "catalogue", "config", "errors",
]  # fmt: skip


def test_arrows_point_one_way():
    package = Path(blip_jax.__path__[0])
    for path in package.rglob("*.py"):
        room = path.relative_to(package).with_suffix("").parts[0]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "blip_jax" and len(parts) > 1 and room in ORDER:
                assert ORDER.index(parts[1]) >= ORDER.index(room), f"{path} imports {name}"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["train", "--help"], "--workdir"),
        (["data", "split", "-h"], "--share: of the rows that is held out (default: 0.2)"),
        (["capfilt", "run", "CORPUS", "--help"], "--lease"),
        (["capfilt", "--help"], "one page about a finished run"),
        (["goodput", "--help"], "goodput DIR"),
    ],
)
def test_every_command_tells_of_its_flags(argv, says, capsys):
    cli.main(argv)
    told = capsys.readouterr().out
    assert told.startswith(f"usage: blip-jax {argv[0]}") and says in told
