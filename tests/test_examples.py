"""The examples give the bytes of `blip-jax capfilt run`, in their engines' local modes."""

import importlib.util
from pathlib import Path

import pytest
from test_capfilt_run import contents, do, settings, tars

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
from test_capfilt_run import model  # noqa: E402, F401


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_beam(tmp_path, model):  # noqa: F811
    pytest.importorskip("apache_beam", reason="pip install apache-beam")
    place, chosen = tars(tmp_path / "in", 3, 4), settings(model)
    do(place, tmp_path / "alone", chosen)
    flags = ["--runner=DirectRunner", "--direct_num_workers=1"]
    example("capfilt_beam").capfilt(place, str(tmp_path / "beam"), chosen, flags)
    assert contents(tmp_path / "beam") == contents(tmp_path / "alone")


def test_ray(tmp_path, model):  # noqa: F811
    ray = pytest.importorskip("ray", reason="pip install 'ray[data]'")
    place, chosen = tars(tmp_path / "in", 3, 4), settings(model)
    do(place, tmp_path / "alone", chosen)
    path = ":".join(map(str, (EXAMPLES, EXAMPLES.parent)))
    env = {"env_vars": {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": path}}
    ray.init(num_cpus=1, runtime_env=env, include_dashboard=False)
    try:
        example("capfilt_ray").capfilt(place, str(tmp_path / "ray"), chosen)
    finally:
        ray.shutdown()
    assert contents(tmp_path / "ray") == contents(tmp_path / "alone")
