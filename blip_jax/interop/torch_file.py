"""Torch's zip-format `.pth` files without torch: read without executing anything, and written."""

import collections
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from blip_jax.interop.archive import Refused, open_archive

_STORAGE_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_STORAGE_NAMES = {dtype: name for name, dtype in _STORAGE_DTYPES.items()}


def read_torch(path: str | Path) -> Any:
    """The contents of a `.pth`, tensors as NumPy arrays.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a whole zip-format torch file, or one that asks for anything but tensors,
        numbers, strings and containers; the file and what it asked for are named.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    with open_archive(path, "zip-format torch file", ratio=1) as archive:  # torch packs nothing
        pickled = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if pickled is None:
            raise Refused("is not a torch file: it holds no data.pkl")
        with archive.open(pickled) as stream:
            return _Unpickler(stream, archive, pickled.removesuffix("data.pkl")).load()


# pickle's other unpickler, in C, gives a file any memory that it asks for.
_InPython: Any = pickle._Unpickler


class _Unpickler(_InPython):
    """Knows how to build tensors and ordered dicts, and nothing else."""

    dispatch: ClassVar[dict[int, Any]] = dict(_InPython.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]  # it takes as much memory as it is told to

    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(stream)
        self._archive, self._root = archive, root
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        raise Refused(f"asks for {module}.{name}, which is no tensor; nothing was executed")

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, count = pid
        if key not in self._storages:
            raw = self._archive.read(f"{self._root}data/{key}")
            if len(raw) < count * dtype.itemsize:
                raise Refused(f"is cut short: storage {key} is incomplete")
            self._storages[key] = np.frombuffer(raw, dtype, count)
        return self._storages[key]

    def load_build(self) -> None:
        """Leaves attributes unset: nobody needs a state dict's, and all else here is shared."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    span = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if 0 not in size else 0
    if offset < 0 or min((*stride, 0)) < 0 or offset + span > storage.size:
        raise Refused("is damaged: a tensor reaches outside of its storage")
    if math.prod(size) > storage.size:
        raise Refused("is damaged: a tensor is larger than its storage")
    strides = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def write_torch(state: dict[str, np.ndarray], path: str | Path) -> None:
    """Writes {"model": OrderedDict of tensors}, as the original saves it, for torch to load.

    Arrays that share memory and layout share a storage in the file. Written aside, then renamed.

    Raises:
      ValueError: a tensor has a type that torch files do not hold here; it is named.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    keys: dict[Any, str] = {}
    arrays = {name: np.asarray(value) for name, value in state.items()}
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr("archive/data.pkl", b"".join(_pickled(arrays, keys)))
        archive.writestr("archive/byteorder", "little")
        for value in arrays.values():
            key = keys.pop(_identity(value), None)
            if key is not None:
                with archive.open(f"archive/data/{key}", "w", force_zip64=True) as stream:
                    stream.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        archive.writestr("archive/version", "3\n")
    os.replace(partial, path)


def _identity(value: np.ndarray) -> Any:
    return value.__array_interface__["data"][0], value.shape, value.strides, value.dtype.name


def _pickled(arrays: dict[str, np.ndarray], keys: dict[Any, str]) -> Iterator[bytes]:
    """The pickle of protocol 2 that torch writes; fills in the storage key of each array."""
    yield b"\x80\x02}" + _text("model") + b"ccollections\nOrderedDict\n)R("
    for name, value in arrays.items():
        if value.dtype not in _STORAGE_NAMES:
            raise ValueError(f"{name} is {value.dtype}, which a torch file cannot hold")
        key = keys.setdefault(_identity(value), str(len(keys)))
        storage = f"ctorch\n{_STORAGE_NAMES[value.dtype]}\n".encode()
        strides = [int(np.prod(value.shape[axis + 1 :])) for axis in range(value.ndim)]
        yield _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        yield _text("storage") + storage + _text(key) + _text("cpu") + _number(value.size) + b"tQ"
        yield _number(0) + _numbers(value.shape) + _numbers(strides)
        yield b"\x89ccollections\nOrderedDict\n)RtR"
    yield b"us."


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _numbers(values: Any) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
