"""Files of other projects: what fits is read, what does not is told, nothing is executed."""

import collections
import contextlib
import os
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from blip_jax.interop import initialisers
from blip_jax.interop.initialisers import read_tensors
from blip_jax.interop.torch_file import _rebuild_tensor, read_torch, write_torch


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


def stored(path, data, **tensor):
    """A file of one tensor over a storage of `data`, by the pickle that torch writes."""
    write_pth(path, torch_pickle("FloatStorage", **tensor), {"0": data})


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    four = np.arange(4, dtype=np.float32).tobytes()
    stored(tmp_path / "wide.pth", four, size=(255, 255), stride=(0, 0))
    with pytest.raises(ValueError, match=r"wide\.pth is damaged: a tensor is larger than its"):
        read_torch(tmp_path / "wide.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", torch_pickle("FloatStorage", (4,), (1,)))
        archive.writestr("x/data/0", bytes(10_000_000))
    with pytest.raises(ValueError, match=r"bomb\.pth is no zip-format torch.* unpack to 10000"):
        read_torch(tmp_path / "bomb.pth")
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(10_000_000, np.uint8))
    with pytest.raises(ValueError, match=r"bomb\.npz is no \.npz file: it would unpack"):
        read_tensors(tmp_path / "bomb.npz")
    for number, payload in enumerate((
        b"\x80\x02Nr\xff\xff\xff\xff.",  # put into the memo's place 4294967295
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",  # a bytearray of a terabyte
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".",  # a text of as many letters
    )):  # fmt: skip
        path = tmp_path / f"{number}.pth"
        write_pth(path, payload, {})
        tracemalloc.start()
        try:
            with contextlib.suppress(ValueError):
                assert read_torch(path) is None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1_000_000


def test_a_pickle_cannot_change_what_it_names(tmp_path):
    state = b"(N}" + b"X\x04\x00\x00\x00evil" + b"K\x01st"  # (None, {"evil": 1}), for setattr
    rebuild = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b."
    write_pth(tmp_path / "set.pth", rebuild, {})
    read_torch(tmp_path / "set.pth")
    assert not hasattr(_rebuild_tensor, "evil")
    call = b"\x80\x02ccollections\nOrderedDict\nX\x04\x00\x00\x00text\x85R."  # of a text
    write_pth(tmp_path / "call.pth", call, {})
    with pytest.raises(ValueError, match=r"call\.pth is not a whole zip-format torch file"):
        read_torch(tmp_path / "call.pth")
    away = torch_pickle("FloatStorage", (4,), (1,)).replace(
        b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00../../outer"
    )
    (tmp_path / "outer").write_bytes(bytes(16))
    write_pth(tmp_path / "away.pth", away, {"0": bytes(16)})
    with pytest.raises(ValueError, match=r"away\.pth is not a whole.*no item named 'x/data/\.\."):
        read_torch(tmp_path / "away.pth")


@pytest.mark.parametrize(
    "content", [[1], {"model": [1]}, {"model": {"x": 1}}, {"model": {3: np.zeros(2)}}]
)
def test_what_is_no_state_dict_is_refused(tmp_path, monkeypatch, content):
    (tmp_path / "odd.pth").write_bytes(b"")
    monkeypatch.setattr(initialisers, "read_torch", lambda path: content)
    with pytest.raises(ValueError, match=r"odd\.pth holds no state dict"):
        read_tensors(tmp_path / "odd.pth")


def test_other_damaged_files_are_named(tmp_path):
    save_file({"x": np.arange(9.0)}, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", x=np.arange(9.0))
    for name, kind in (("x.safetensors", "whole safetensors"), ("x.npz", r"whole \.npz")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=rf"{name} is not a {kind}"):
            read_tensors(tmp_path / name)
    np.savez(tmp_path / "objects.npz", x=np.array([Bomb], object))
    with pytest.raises(ValueError, match=r"objects\.npz is not a whole.*allow_pickle=False"):
        read_tensors(tmp_path / "objects.npz")
