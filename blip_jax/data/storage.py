"""Files on disk and in buckets (gs://, s3://), through fsspec. Never the web."""

from __future__ import annotations

import gzip
import io
import os
import posixpath
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

SCHEMES = ("file", "gs", "gcs", "s3", "memory")


def open_binary(location: Path | str) -> BinaryIO:
    """A file for reading; unpacked where its name ends in .gz or .tgz.

    Raises:
      OSError: no such file, or no access.
      ValueError: a scheme that is not read, or whose library is absent.
    """
    name = str(location)
    # fsspec costs more than the read of a small local image.
    opener = filesystem(name).open if is_remote(name) else open
    file: Any = opener(name, "rb")
    return cast(BinaryIO, gzip.open(file)) if name.endswith((".gz", ".tgz")) else file


def exists(location: Path | str) -> bool:
    """Whether there is such a file or folder."""
    if is_remote(location):
        return filesystem(location).exists(str(location))
    return os.path.exists(location)


def size(location: Path | str) -> int | None:
    """Bytes of a file; None if there is none."""
    if not exists(location):
        return None
    return filesystem(location).size(str(location))


def is_folder(location: Path | str) -> bool:
    """Whether it is a folder; in a bucket, a prefix of files."""
    if is_remote(location):
        return filesystem(location).isdir(str(location))
    return os.path.isdir(location)


def list_files(folder: Path | str) -> list[str]:
    """Every file under a folder, hidden ones apart, sorted; as addresses that can be opened."""
    if is_remote(folder):
        system = filesystem(folder)
        found = [system.unstrip_protocol(name) for name in system.find(str(folder))]
    else:
        found = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    start = len(str(folder))
    return sorted(name for name in found if "/." not in name[start:])


def matching(pattern: str) -> list[str]:
    """Files that a pattern with *, ? and [] names, sorted."""
    if is_remote(pattern):
        system = filesystem(pattern)
        return sorted(system.unstrip_protocol(name) for name in system.glob(pattern))
    from glob import glob

    return sorted(glob(pattern, recursive=True))


def join(root: Path | str, name: str) -> str:
    """An address under a root; an absolute `name` stands for itself."""
    return name if is_remote(name) else posixpath.join(str(root), name)


def place(address: str) -> Path | str:
    """A path on disk as a Path; a bucket's address as it is."""
    return address if is_remote(address) else Path(address)


def stem(location: Path | str) -> str:
    """The file's name up to the first dot: a/00000.tar.gz -> 00000."""
    return posixpath.basename(str(location).rstrip("/")).split(".")[0]


def is_remote(location: Path | str) -> bool:
    """Whether it is an address with a scheme."""
    return isinstance(location, str) and "://" in location


def filesystem(location: Path | str) -> Any:
    """The fsspec file system of an address.

    Raises:
      ValueError: a scheme that is not read, or whose library is absent.
    """
    import fsspec

    scheme = str(location).split("://")[0] if is_remote(location) else "file"
    if scheme not in SCHEMES:
        raise ValueError(f"{location}: expected a local path, gs:// or s3://, not {scheme}://.")
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        library = "s3fs" if scheme == "s3" else "gcsfs"
        raise ValueError(f"{location}: {scheme}:// needs the package {library}.") from error


def put(path: Path, target: Path | str) -> None:
    """Moves a finished local file to its place, in one step that nobody sees half done.

    On disk `path` must be on the target's disk; into a bucket one object is written whole.
    """
    if is_remote(target):
        filesystem(target).put_file(str(path), str(target))
        path.unlink()
    else:
        os.replace(path, target)


def write_bytes(target: Path | str, content: bytes) -> None:
    """A small file, whole or not at all."""
    if is_remote(target):
        filesystem(target).pipe_file(str(target), content)
        return
    path = Path(target)
    # A name of its own: several processes may write the same file at once.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_array(target: Path | str, array: Any) -> None:
    """An array as .npy, whole or not at all."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(target, buffer.getvalue())


def with_suffix(locations: Iterable[str], *suffixes: str) -> list[str]:
    """Those whose name ends in one of the suffixes, whatever the case."""
    return [name for name in locations if name.lower().endswith(suffixes)]
