"""Downstream tasks: each config trained, killed, resumed, evaluated; and one of one's own."""

import functools
import importlib.util
import json
import logging
import os
import re
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from corpora import jpeg

import blip_jax
from blip_jax.compiling import compile_programs
from blip_jax.errors import Stopped
from blip_jax.files import silent
from blip_jax.interop.salesforce import export_salesforce, import_salesforce
from blip_jax.interop.torch_file import read_torch, write_torch
from blip_jax.model import Model, save
from blip_jax.tasks import find_task, trainable
from blip_jax.train import loop
from blip_jax.train.mesh import make_mesh
from blip_jax.training import run_training

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["left", "right", "a dog", "two cats", "yes"]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Programs for one device compile in half the time."""
    one = functools.partial(make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "make_mesh", one)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A model folder that every task begins from."""
    path = tmp_path_factory.mktemp("pretrained") / "model"
    save(tiny.model("pretrain"), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Annotations of every task over eight pictures: task -> file."""
    root = tmp_path_factory.mktemp("data")
    for i in range(8):
        (root / f"{i}.jpg").write_bytes(jpeg(i))
    texts = [WORDS[i % 5] for i in range(8)]
    rows = {
        "caption": [{"image": f"{i}.jpg", "caption": t} for i, t in enumerate(texts)],
        "retrieval": [
            {"image": f"{i // 2}.jpg", "caption": t, "image_id": str(i // 2)}
            for i, t in enumerate(texts)
        ],
        "vqa": [
            {
                "question_id": i,
                "image": f"{i}.jpg",
                "question": "is it green?",
                "answer": [t, t, "no"],
            }
            for i, t in enumerate(texts)
        ],
        "nlvr": [
            {"images": [f"{i}.jpg", f"{7 - i}.jpg"], "sentence": t, "label": str(i % 2 == 0)}
            for i, t in enumerate(texts)
        ],
        "classify": [
            {"image": f"{i}.jpg", "text": t, "label": ("neutral", "entailment")[i % 2]}
            for i, t in enumerate(texts)
        ],
    }
    said = {"question": 0, "answer": 1, "answer_options": [0, 1, 2], "gt_index": 1}
    dialogs = [
        {"image_id": i, "image": f"{i}.jpg", "caption": t, "dialog": [said, said]}
        for i, t in enumerate(texts)
    ]
    rows["visdial"] = {
        "split": "val",
        "data": {"questions": ["is it green"], "answers": WORDS, "dialogs": dialogs},
    }
    for task, content in rows.items():
        (root / f"{task}.json").write_text(json.dumps(content))
    return {task: str(root / f"{task}.json") for task in rows}


def get_config(path, *args):
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*args)


def config_of(task, pretrained, data):
    config = get_config(ROOT / f"configs/{task}.py", "tiny")
    config.lock()
    config.init.checkpoint = str(pretrained)
    config.sources.train.place = data[task]
    config.evaluate.update({"annotations": data[task], "batch_size": 4})
    if task == "vqa":
        config.evaluate.candidates = data[task]
    return config


RELEASED = ("caption", "retrieval", "vqa", "nlvr")  # tasks that the original's files are for
TASKS = (*RELEASED, "visdial", "classify")


def by_the_originals_file(model, path):
    """A model written in the layout of the original, and converted from it."""
    write_torch(export_salesforce(model.params, model.config), path)
    vision, text = model.config.vision, model.config.text
    state = read_torch(path)["model"]
    found = import_salesforce(state, vision_heads=vision.heads, text_heads=text.heads)
    return Model(found.params, model.config, model.tokenizer)


@pytest.mark.parametrize("task", TASKS)
def test_config_trains_survives_sigterm_loads_and_evaluates(
    task, pretrained, data, tmp_path, monkeypatch, caplog
):
    calls = []

    def deadly(batch, mesh):
        calls.append(batch)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return put_batch(batch, mesh)

    put_batch = loop.put_batch
    with monkeypatch.context() as patch:
        patch.setattr(loop, "put_batch", deadly)
        with pytest.raises(Stopped, match="after step 2"):
            run_training(config_of(task, pretrained, data), str(tmp_path / "killed"))
    resumed = run_training(config_of(task, pretrained, data), str(tmp_path / "killed"))
    model = blip_jax.load(resumed)
    if task in ("caption", "retrieval"):  # without memory and with it
        whole = run_training(config_of(task, pretrained, data), str(tmp_path / "whole"))
        same = blip_jax.load(whole).params
        jax.tree.map(np.testing.assert_array_equal, model.params, same)
    assert model.config.task == task and model.config.vision.image_size == 32

    config = config_of(task, pretrained, data).evaluate
    assert model.config.conventions.prompt == ("a picture of " if task == "caption" else "")
    found = find_task(task).evaluate(model, config, silent)
    assert len(found.examples) == (16 if task == "visdial" else 8)
    assert found.count == (4 if task == "retrieval" else len(found.examples))  # of images
    name = {"visdial": "mrr", "caption": "bleu1", "retrieval": "tr_r5"}.get(task, "accuracy")
    score = found.scores[name]
    assert 0 <= score.low <= score.value <= score.high <= 1
    if task in RELEASED:
        carried = by_the_originals_file(model, tmp_path / "model.pth")
        assert find_task(task).evaluate(carried, config, silent).scores == found.scores
    if task == "nlvr":  # identifier and answer, as the server's program reads them
        lines = found.submissions["nlvr2.csv"].splitlines()
        assert len(lines) == 8 and {line.split(",")[1] for line in lines} <= {"True", "False"}


def test_parameters_move_and_what_is_drawn_is_told(pretrained, data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        path = run_training(config_of("classify", pretrained, data), str(tmp_path))
    (line,) = [r.getMessage() for r in caplog.records if "newly drawn" in r.getMessage()]
    assert line.endswith(
        "class_head/hidden/bias, class_head/hidden/kernel, class_head/out/bias, "
        "class_head/out/kernel"
    )
    before, after = blip_jax.load(pretrained).params, blip_jax.load(path).params
    moved = np.abs(after["vision"]["patch"]["kernel"] - before["vision"]["patch"]["kernel"]).max()
    assert 0 < moved < 1e-3  # three steps of a small rate from where the checkpoint was
    assert sorted(after) == ["class_head", "text", "vision"]


def test_frozen_tower_stays(pretrained, data, tmp_path):
    config = config_of("classify", pretrained, data)
    config.run.optimizer.multipliers = {"^(vision|text)/": 0.0}
    config.model.vision.image_size = 16  # the checkpoint's own
    after = blip_jax.load(run_training(config, str(tmp_path))).params
    before = blip_jax.load(pretrained).params
    jax.tree.map(np.testing.assert_array_equal, after["vision"], before["vision"])
    assert np.abs(after["class_head"]["out"]["bias"]).max() > 0


def test_a_step_compiles_without_data():
    config = get_config(ROOT / "configs/vqa.py", "tiny")
    config.run.batch_size = 8  # one row a device
    assert compile_programs(config, None)[0].flops > 0


def test_mistakes_are_told(pretrained, data, tmp_path):
    for name, sentence in (
        ("vqaa", "no module blip_jax.tasks.vqaa"),
        ("contrastive", "has no objective"),
        ("nowhere.task", "no module nowhere.task"),
    ):
        with pytest.raises(ValueError, match=sentence):
            trainable(name)
    config = config_of("classify", pretrained, data)
    config.model.classes = ("no", "yes")
    with pytest.raises(ValueError, match="label 'neutral' is none of config.model.classes"):
        run_training(config, str(tmp_path))
    config = config_of("vqa", pretrained, data)
    config.sources.train.place = data["caption"]
    with pytest.raises(ValueError, match='row 0: field "question_id"'):
        run_training(config, str(tmp_path))


def test_the_task_of_the_docs(pretrained, tmp_path, monkeypatch):
    """Exactly the text of the page, as its reader would write it down."""
    page = (ROOT / "docs/tasks.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    files = dict(zip(("rating", "rating_config"), blocks, strict=True))
    (tmp_path / "my_tasks").mkdir()
    for name, text in files.items():
        (tmp_path / f"my_tasks/{name}.py").write_text(text)
    rows = []
    for i in range(8):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
        rows.append({"image": f"{i}.jpg", "caption": WORDS[i % 5], "rating": i / 8})
    ratings = tmp_path / "ratings.json"
    ratings.write_text(json.dumps(rows))
    monkeypatch.syspath_prepend(str(tmp_path))
    config = get_config(tmp_path / "my_tasks/rating_config.py")
    config.init.checkpoint, config.sources.train.place = str(pretrained), str(ratings)
    config.run.batch_size, config.model.vision.image_size = 8, 16
    model = blip_jax.load(run_training(config, str(tmp_path / "run")))
    config.evaluate.annotations = str(ratings)
    found = find_task(config.task).evaluate(model, config.evaluate, silent)
    assert found.count == 8 and found.scores["mean_error"].value > 0
    assert config.run.steps == 3 and model.config.classes == ("rating",)
