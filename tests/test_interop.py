"""Files of other projects: what fits is read, what does not is told, nothing is executed."""

import collections
import os
import pickle
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import CONFIG, init_params

from blip_jax.interop.initialisers import initialise
from blip_jax.interop.salesforce import import_pretrain
from blip_jax.interop.torch_file import _rebuild_tensor, read_torch


def bert(width=32, layers=2, vocab=64, positions=64):
    rng = np.random.default_rng(0)
    state = {
        "embeddings.word_embeddings.weight": (vocab, width),
        "embeddings.position_embeddings.weight": (positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for i in range(layers):
        prefix = f"encoder.layer.{i}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value"):
            state |= {f"{prefix}{name}.weight": (width, width), f"{prefix}{name}.bias": (width,)}
        for name in ("attention.output.dense", "output.dense", "intermediate.dense"):
            shape = {"output.dense": (width, 64), "intermediate.dense": (64, width)}.get(
                name, (width, width)
            )
            state |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            state |= {f"{prefix}{name}.weight": (width,), f"{prefix}{name}.bias": (width,)}
    return {f"bert.{k}": rng.normal(size=v).astype(np.float32) for k, v in state.items()}


def test_both_self_attentions_start_from_berts_one(tmp_path):
    state = bert(vocab=62)
    save_file(state, tmp_path / "bert.safetensors")
    start = init_params()
    params = initialise(start, "", str(tmp_path / "bert.safetensors"))
    blocks = params["text"]["blocks"]
    weight = state["bert.encoder.layer.1.attention.self.query.weight"]
    for role in ("encoder_attention", "decoder_attention"):
        np.testing.assert_array_equal(blocks[role]["query"]["kernel"][1], weight.T)
    word = params["text"]["embeddings"]["word"]
    np.testing.assert_array_equal(word[:62], state["bert.embeddings.word_embeddings.weight"])
    np.testing.assert_array_equal(word[62:], start["text"]["embeddings"]["word"][62:])
    kept = blocks["cross_attention"]["query"]["kernel"]
    np.testing.assert_array_equal(
        kept, start["text"]["blocks"]["cross_attention"]["query"]["kernel"]
    )
    assert jax.tree.structure(params) == jax.tree.structure(start)


def test_a_tower_that_does_not_fit_is_refused_with_every_shape(tmp_path):
    path = tmp_path / "wide.safetensors"
    save_file(bert(width=48), path)
    with pytest.raises(ValueError, match=r"wide\.safetensors does not fit.*word is \(64, 48\)"):
        initialise(init_params(), "", str(path))
    state = bert()
    del state["bert.encoder.layer.1.output.dense.bias"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.dense\.bias is missing"):
        initialise(init_params(), "", str(path))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        initialise(init_params(), str(tmp_path / "nowhere.npz"), "")


def test_a_real_vit_fits(shared):
    import dataclasses

    from blip_jax.models.blip import Blip

    vision = dataclasses.replace(
        CONFIG.vision, image_size=112, patch_size=16, width=384, depth=12, heads=6, mlp_width=1536
    )
    config = dataclasses.replace(CONFIG, vision=vision)
    params = Blip(config).init(jax.random.key(0))
    path = shared / "vit_small/vit_small_patch16_224.npz"
    tower = initialise(params, str(path), "")["vision"]
    raw = np.load(path)
    qkv = raw["blocks.3.attn.qkv.weight"].astype(np.float32)
    kernel = tower["blocks"]["attention"]["key"]["kernel"][3]
    np.testing.assert_array_equal(kernel, qkv[384:768].T)
    assert tower["positions"].shape == (1, 50, 384)


def write_pth(path, payload, storages):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", payload)
        for key, data in storages.items():
            archive.writestr(f"x/data/{key}", data)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    Bomb.path = str(tmp_path / "executed")
    write_pth(tmp_path / "bomb.pth", pickle.dumps({"model": Bomb()}), {})
    with pytest.raises(ValueError, match=r"bomb\.pth asks for .*mkdir.*nothing was executed"):
        read_torch(tmp_path / "bomb.pth")
    assert not (tmp_path / "executed").exists()


def test_files_cut_short_and_files_of_other_kinds_are_refused(tmp_path, shared):
    whole = (shared / "parity/itm.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("no weights at all")
    write_pth(tmp_path / "empty.pth", pickle.dumps(collections.OrderedDict()), {})
    for name in ("cut.pth", "text.pth"):
        with pytest.raises(ValueError, match=name):
            read_torch(tmp_path / name)
    assert read_torch(tmp_path / "empty.pth") == {}
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(ValueError, match=r"holds no data\.pkl"):
        read_torch(tmp_path / "other.pth")


def test_a_pretraining_file_is_read_whole_or_not_at_all(shared):
    state = read_torch(shared / "parity/pretrain.pth")["model"]
    params, memory = import_pretrain(state)
    assert params["text"]["blocks"]["mlp"]["up"]["kernel"].shape == (3, 16, 40)
    assert memory["queue"]["image"].shape == (6, 16)
    with pytest.raises(ValueError, match="unknown tensor\\(s\\): surprise"):
        import_pretrain({**state, "surprise": np.zeros(1)})
    tied = "text_decoder.bert.encoder.layer.0.crossattention.self.key.weight"
    with pytest.raises(ValueError, match="tied tensors differ.*crossattention"):
        import_pretrain({**state, tied: state[tied] + 1})
    missing = {k: v for k, v in state.items() if k != "itm_head.bias"}
    with pytest.raises(ValueError, match=r"itm_head\.bias is missing"):
        import_pretrain(missing)


def test_tensors_keep_offsets_and_strides():
    storage = np.arange(12, dtype=np.float32)
    view = _rebuild_tensor(storage, 1, (2, 3), (1, 2))
    np.testing.assert_array_equal(view, [[1, 3, 5], [2, 4, 6]])
    with pytest.raises(ValueError, match="outside of its storage"):
        _rebuild_tensor(storage, 10, (2, 3), (1, 2))
