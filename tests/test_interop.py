"""Files of other projects: what fits is read, what does not is told, nothing is executed."""

import collections
import os
import pickle
import struct
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import CONFIG, init_params

from blip_jax.interop.initialisers import initialise
from blip_jax.interop.torch_file import _rebuild_tensor, read_torch, write_torch


@pytest.fixture(scope="module")
def start():
    """A small model's parameters, NumPy."""
    return init_params()


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


def test_both_self_attentions_start_from_berts_one(tmp_path, start):
    state = bert(vocab=62)
    save_file(state, tmp_path / "bert.safetensors")
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


def test_a_tower_that_does_not_fit_is_refused_with_every_shape(tmp_path, start):
    path = tmp_path / "wide.safetensors"
    save_file(bert(width=48), path)
    with pytest.raises(ValueError, match=r"wide\.safetensors does not fit.*word is \(64, 48\)"):
        initialise(start, "", str(path))
    state = bert()
    del state["bert.encoder.layer.1.output.dense.bias"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.dense\.bias is missing"):
        initialise(start, "", str(path))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        initialise(start, str(tmp_path / "nowhere.npz"), "")


def test_a_real_vit_fits(shared):
    import dataclasses

    from blip_jax.models.blip import Blip

    vision = dataclasses.replace(
        CONFIG.vision, image_size=112, patch_size=16, width=384, depth=12, heads=6, mlp_width=1536
    )
    config = dataclasses.replace(CONFIG, vision=vision)
    params = jax.eval_shape(Blip(config).init, jax.random.key(0))
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


def torch_pickle(storage, size, stride):
    """The pickle that torch writes for {"x": a tensor of one storage of four numbers}."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(values):
        return b"(" + b"".join(b"K" + bytes([v]) for v in values) + b"t"

    storage_id = b"(" + text("storage") + b"ctorch\n" + storage.encode() + b"\n"
    storage_id += text("0") + text("cpu") + b"K\x04tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage_id + b"K\x00" + numbers(size)
    return b"\x80\x02}" + text("x") + tensor + numbers(stride) + b"\x89}tRs."


def test_tensors_of_a_file_keep_type_and_layout(tmp_path):
    numbers = np.arange(4, dtype=np.float32)
    path = tmp_path / "x.pth"
    write_pth(path, torch_pickle("FloatStorage", (2, 2), (1, 2)), {"0": numbers.tobytes()})
    np.testing.assert_array_equal(read_torch(path)["x"], [[0, 2], [1, 3]])
    half = numbers.astype(ml_dtypes.bfloat16)
    write_pth(path, torch_pickle("BFloat16Storage", (4,), (1,)), {"0": half.tobytes()})
    read = read_torch(path)["x"]
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read, half)


@pytest.mark.parametrize(
    ("payload", "storages", "complaint"),
    [
        (torch_pickle("FloatStorage", (5,), (1,)), {"0": bytes(16)}, "outside of its storage"),
        (torch_pickle("FloatStorage", (4,), (1,)), {"0": bytes(15)}, "storage 0 is incomplete"),
        (torch_pickle("FloatStorage", (4,), (1,)), {}, "not a whole"),
        (torch_pickle("OddStorage", (4,), (1,)), {"0": bytes(16)}, r"torch\.OddStorage"),
        (b"\x80\x02K\x01K\x02R.", {}, "not a whole"),  # calls a number
    ],
)
def test_every_complaint_about_a_file_names_it(tmp_path, payload, storages, complaint):
    path = tmp_path / "odd.pth"
    write_pth(path, payload, storages)
    with pytest.raises(ValueError, match=rf"odd\.pth.*{complaint}"):
        read_torch(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    Bomb.path = str(tmp_path / "executed")
    write_pth(tmp_path / "bomb.pth", pickle.dumps({"model": Bomb()}), {})
    with pytest.raises(ValueError, match=r"bomb\.pth asks for .*mkdir.*nothing was executed"):
        read_torch(tmp_path / "bomb.pth")
    assert not (tmp_path / "executed").exists()


def test_files_cut_short_and_files_of_other_kinds_are_refused(tmp_path):
    write_torch({"x": np.arange(1000.0)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
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


def test_tensors_keep_offsets_and_strides():
    storage = np.arange(12, dtype=np.float32)
    view = _rebuild_tensor(storage, 1, (2, 3), (1, 2))
    np.testing.assert_array_equal(view, [[1, 3, 5], [2, 4, 6]])
    with pytest.raises(ValueError, match="outside of its storage"):
        _rebuild_tensor(storage, 10, (2, 3), (1, 2))


def state_of_all_kinds():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 4)).astype(np.float32)
    return {
        "matrix": matrix,
        "transposed": matrix.T,
        "tied": matrix,
        "scalar": np.array(0.07, np.float32),
        "none": np.zeros((0, 3), np.float32),
        "half": matrix.astype(ml_dtypes.bfloat16),
        "pointer": np.array([7]),
    }


def test_what_is_written_is_read_back(tmp_path):
    state = state_of_all_kinds()
    write_torch(state, tmp_path / "x.pth")
    back = read_torch(tmp_path / "x.pth")["model"]
    assert list(back) == list(state)
    for name, value in state.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        stored = [name for name in archive.namelist() if "/data/" in name]
    assert len(stored) == len(state) - 1  # the tied one is not written twice
    with pytest.raises(ValueError, match="words is <U1"):
        write_torch({"words": np.array(["a"])}, tmp_path / "words.pth")


def test_torch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = state_of_all_kinds()
    write_torch(state, tmp_path / "x.pth")
    back = torch.load(tmp_path / "x.pth", weights_only=True)["model"]
    assert list(back) == list(state)
    for name, value in state.items():
        assert str(back[name].dtype) == f"torch.{value.dtype.name}"
        np.testing.assert_array_equal(back[name].double().numpy(), value.astype(np.float64))
    torch.save({"model": back}, tmp_path / "theirs.pth")
    ours = read_torch(tmp_path / "theirs.pth")["model"]
    np.testing.assert_array_equal(ours["transposed"], state["transposed"])
