"""Several processes on this machine train as one, stop together, and go on as another number."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from blip_jax.tokenizer import Tokenizer
from blip_jax.train.hosts import is_cluster, join_hosts
from blip_jax.train.journal import by_step

CONFIG = Path(__file__).resolve().parents[1] / "configs/pretrain.py"
DEVICES = 4
SMALL = [
    "--config.model.vision.depth=1", "--config.model.text.depth=1",
    "--config.model.text.dropout=0.0", "--config.run.steps=16", "--config.run.checkpoint_every=100",
    "--config.run.data.max_tokens=8", "--config.run.optimizer.lr=0.0001",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Forty noisy pictures with a text each, and a tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    rng, rows = np.random.default_rng(0), []
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "caption": f"picture {i} of {i % 7} things"})
    (folder / "pairs.json").write_text(json.dumps(rows))
    Tokenizer.train([row["caption"] for row in rows], vocab_size=80).save(folder / "tokenizer")
    return folder


def start(data, workdir, index=0, count=1, port=0, steps=()):
    env = dict(os.environ, JAX_NUM_CPU_DEVICES=str(DEVICES // count))
    if count > 1:
        env |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
    command = [sys.executable, "-m", "blip_jax", "train", f"--config={CONFIG}:tiny", *SMALL]
    command += [f"--workdir={workdir}", f"--config.sources.human.place={data / 'pairs.json'}"]
    command += [f"--config.tokenizer={data / 'tokenizer'}", *steps]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, **pipes)


def launch(data, workdir, count, steps=()):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [start(data, workdir, i, count, port, steps) for i in range(count)]


def finish(processes):
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def result(workdir):
    losses = {row["step"]: row["loss"] for row in by_step(workdir / "metrics.jsonl")}
    return losses, load_file(workdir / "model/model.safetensors")


def assert_same(a, b):
    assert a[0].keys() == b[0].keys()
    for step, loss in a[0].items():
        assert b[0][step] == pytest.approx(loss, rel=1e-5)
    for name, value in a[1].items():
        np.testing.assert_allclose(b[1][name], value, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    codes, outputs = finish(launch(data, workdir, 1))
    assert codes == [0], outputs
    return result(workdir)


def test_four_processes_compute_what_one_does(data, alone, tmp_path):
    codes, outputs = finish(launch(data, tmp_path, 4))
    assert codes == [0] * 4, outputs
    assert_same(alone, result(tmp_path))
    assert "loss=" in outputs[0][1] and "loss=" not in outputs[1][1]  # one log


def test_sigterm_to_one_stops_both_and_one_process_goes_on(data, alone, tmp_path):
    """Two processes compute what one does up to there, and one the rest."""
    processes = launch(data, tmp_path, 2)
    deadline = time.time() + 200
    while not (tmp_path / "metrics.jsonl").exists() and time.time() < deadline:
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes)
    assert codes == [42, 42], outputs
    assert "which is saved" in outputs[0][1]
    codes, outputs = finish(launch(data, tmp_path, 1))
    assert codes == [0], outputs
    assert_same(alone, result(tmp_path))
    codes, outputs = finish([start(data, tmp_path, steps=["--config.run.steps=20"])])
    assert codes == [2] and "another config (run.steps differ)" in outputs[0][1]


def test_what_tells_of_other_processes(monkeypatch):
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("BLIP_JAX_DISTRIBUTED", "MEGASCALE_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert not is_cluster()
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    assert is_cluster()
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS is not set"):
        join_hosts()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="JAX_PROCESS_ID is 'first'; expected a number"):
        join_hosts()
