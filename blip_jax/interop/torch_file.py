"""Torch's zip-format `.pth` files without torch: read without executing anything, and written."""

import collections
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

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
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = next((n for n in names if n.endswith("/data.pkl")), None)
            if pickled is None:
                raise _Refused("is not a torch file: it holds no data.pkl")
            root = pickled.removesuffix("data.pkl")
            with archive.open(pickled) as stream:
                return _Unpickler(stream, archive, root).load()
    except _Refused as error:
        raise ValueError(f"{path} {error}") from error
    except MemoryError as error:
        raise ValueError(f"{path} asks for more memory than there is") from error
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path} is not a whole zip-format torch file: {error}") from error


class _Refused(ValueError):
    """What the file asks for, or lacks; completes a sentence that starts with its name."""


class _Unpickler(pickle.Unpickler):
    """Knows how to build tensors and ordered dicts, and nothing else."""

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
        raise _Refused(f"asks for {module}.{name}, which is no tensor; nothing was executed")

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, count = pid
        if key not in self._storages:
            raw = self._archive.read(f"{self._root}data/{key}")
            if len(raw) < count * dtype.itemsize:
                raise _Refused(f"is cut short: storage {key} is incomplete")
            self._storages[key] = np.frombuffer(raw, dtype, count)
        return self._storages[key]


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    span = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if 0 not in size else 0
    if offset < 0 or min((*stride, 0)) < 0 or offset + span > storage.size:
        raise _Refused("is damaged: a tensor reaches outside of its storage")
    strides = tuple(s * storage.itemsize for s in stride)
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
    return view


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
