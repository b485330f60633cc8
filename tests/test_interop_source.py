"""Weights by path and by name: what is found is read, what is not is told."""

import dataclasses
import pickle
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
import tiny
from released import CONFIG, HEADS, file, random_tree, tree
from safetensors.numpy import load_file, save_file

from blip_jax.catalogue import list_models
from blip_jax.interop.huggingface import export_huggingface
from blip_jax.interop.salesforce import export_salesforce
from blip_jax.interop.source import find_tokenizer, load_source, resolve, with_tokenizer
from blip_jax.interop.torch_file import write_torch
from blip_jax.model import Model, save
from blip_jax.tokenizer import Tokenizer


def test_a_file_by_path_and_by_the_name_it_was_released_under(tmp_path, monkeypatch):
    write_torch(file("nlvr"), tmp_path / "model_base_nlvr.pth")
    monkeypatch.setenv("BLIP_CHECKPOINTS", str(tmp_path))
    for source in (tmp_path / "model_base_nlvr.pth", "nlvr-base"):
        imported = load_source(source, **HEADS)
        jax.tree.map(np.testing.assert_array_equal, imported.params, tree("nlvr"))
    with pytest.raises(FileNotFoundError, match="vqa-base is not here: download https://.*BLIP_CH"):
        load_source("vqa-base")


def test_another_image_size(tmp_path):
    write_torch(file("pretrain"), tmp_path / "x.pth")
    imported = load_source(tmp_path / "x.pth", image_size=48, **HEADS)
    assert imported.config.vision.image_size == 48
    assert imported.report.resized == ["positions from 32 to 48 pixels"]
    for vision in (imported.params["vision"], imported.memory["teacher"]["vision"]):
        assert vision["positions"].shape == (1, 37, 24)
    before = tree("pretrain")["vision"]["positions"]
    np.testing.assert_array_equal(imported.params["vision"]["positions"][:, 0], before[:, 0])
    same = load_source(tmp_path / "x.pth", image_size=32, **HEADS)
    assert same.report.resized == []
    with pytest.raises(ValueError, match="45 is not a multiple"):
        load_source(tmp_path / "x.pth", image_size=45, **HEADS)


def test_positions_are_interpolated_as_torch_does(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    write_torch(file("caption"), tmp_path / "x.pth")
    ours = load_source(tmp_path / "x.pth", image_size=56, **HEADS).params["vision"]["positions"]
    before = tree("caption")["vision"]["positions"][:, 1:].reshape(1, 4, 4, 24)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(before).permute(0, 3, 1, 2), (7, 7), mode="bicubic", align_corners=False
    )
    expected = theirs.permute(0, 2, 3, 1).reshape(1, 49, 24).numpy()
    np.testing.assert_allclose(ours[:, 1:], expected, rtol=1e-5, atol=2e-6)


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file, no folder, no hub name and"):
        resolve(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="Nobody/no-such-blip is neither.*the hub gave"):
        resolve("Nobody/no-such-blip")
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(ValueError, match="notes.txt: expected a .npz"):
        load_source(tmp_path / "notes.txt")


def test_bad_files_are_refused_by_name(tmp_path):
    write_torch(file("caption"), tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    write_torch({"fc.weight": np.zeros((2, 2))}, tmp_path / "resnet.pth")
    with zipfile.ZipFile(tmp_path / "list.pth", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps([1, 2]))
    with zipfile.ZipFile(tmp_path / "epoch.pth", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"epoch": 3}))
    for name, complaint in (
        ("cut", "not a whole zip"),
        ("resnet", "not a BLIP model"),
        ("list", "holds no state dict"),
        ("epoch", "holds no state dict"),
    ):
        with pytest.raises(ValueError, match=f"{name}.pth.*{complaint}"):
            load_source(tmp_path / f"{name}.pth")


def test_the_tokenizer_beside_a_file_tells_the_special_ids(tmp_path):
    tokenizer = Tokenizer.train(["a red circle above a blue square"], vocab_size=40)
    tokenizer.save(tmp_path / "tokenizer")
    write_torch(file("caption"), tmp_path / "x.pth")
    found = find_tokenizer(tmp_path / "x.pth")
    config = with_tokenizer(load_source(tmp_path / "x.pth", **HEADS).config, found)
    assert config.text.sep_id == tokenizer.sep_id
    assert config.text.dec_id == tokenizer.dec_id
    small = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=10))
    with pytest.raises(ValueError, match="10 word embeddings"):
        with_tokenizer(small, found)


def test_every_released_checkpoint_has_an_entry():
    models = list_models()
    assert len({m.name for m in models}) == len({m.source for m in models}) == len(models) == 13
    assert {m.task for m in models} == {"pretrain", "caption", "retrieval", "vqa", "nlvr"}
    sizes = {"pretrain": 224, "caption": 384, "retrieval": 384, "vqa": 480, "nlvr": 384}
    for model in models:
        assert model.image_size == sizes[model.task]
        assert model.source.startswith("https://") and model.file.endswith(".pth")
        assert (model.vision == "L/16") == ("large" in model.name)
        assert model.licence == "BSD-3-Clause"


def test_a_folder_of_ours_must_hold_what_its_config_says(tmp_path):
    save(tiny.model("retrieval"), tmp_path / "whole")
    imported = load_source(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, imported.params, tiny.model("retrieval").params)
    flat = load_file(tmp_path / "whole/model.safetensors")
    del flat["temperature"]  # as an import may lack it
    save_file(flat, tmp_path / "whole/model.safetensors")
    assert "temperature" not in load_source(tmp_path / "whole").params
    del flat["itm_head/bias"]
    flat |= {"vision": np.zeros(2), "text_proj/bias": np.zeros(9)}
    save_file(flat, tmp_path / "whole/model.safetensors")
    with pytest.raises(ValueError, match="whole/model.safetensors does not fit its") as error:
        load_source(tmp_path / "whole")
    for phrase in ("itm_head/bias is missing", "vision is unknown", "text_proj/bias is (9,), exp"):
        assert phrase in str(error.value)
    wrong = ("{", "[1]", '{"vision": 3}', '{"vision": {"heads": 0}}', '{"task": 7}', '{"x": 1}')
    for text in wrong:
        (tmp_path / "whole/config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json is not the config of a model"):
            load_source(tmp_path / "whole")
    (tmp_path / "whole/config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load_source(tmp_path / "whole")


@pytest.mark.parametrize("form", ["salesforce", "huggingface", "blip_jax"])
def test_a_loaded_model_is_held_once(tmp_path, form):
    """In a process of its own: the peak while loading, and after the parameters were placed."""
    vision = dataclasses.replace(CONFIG.vision, width=768, depth=6, mlp_width=3072)
    config = dataclasses.replace(CONFIG, task="caption", vision=vision)
    tokenizer = Tokenizer.train(["a red circle above a blue square"], vocab_size=40)
    model, path = Model(random_tree(config), config, tokenizer), tmp_path / "model"
    if form == "blip_jax":
        save(model, path)
    elif form == "huggingface":
        export_huggingface(model.params, config, tokenizer, path)
    else:
        tokenizer.save(tmp_path)
        path = tmp_path / "model.pth"
        write_torch(export_salesforce(model.params, config), path)
    heads = ", ".join(f"{name}={value}" for name, value in HEADS.items())
    program = f"""
import resource, jax
from blip_jax.model import load
jax.device_put(0).block_until_ready()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
model = load({str(path)!r}, {heads})
jax.block_until_ready(model.on_device)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    assert int(done.stdout) < 1.7 * size
