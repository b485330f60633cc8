"""Tar archives as a stream of files: nothing is unpickled, unpacked or trusted."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBER = 64 * 2**20  # bytes; no image that may be decoded is larger
_CHUNK = 2**20
_NAME_TYPES = {tarfile.GNUTYPE_LONGNAME: "name", tarfile.XHDTYPE: "pax"}


@dataclass(frozen=True)
class Member:
    """A file of the archive."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Damage:
    """A place where the archive cannot be read: `reason` is one word, `detail` a sentence."""

    reason: str
    detail: str


class _EndOfFile(Exception):
    pass


def members(file: BinaryIO, name: str) -> Iterator[Member | Damage]:
    """The regular files of a tar, in order; what is damaged in between is told and passed over.

    Damage: tar_truncated (the end is missing), tar_damaged (blocks that are no header, passed
    over up to the next good one), large_member (over 64 MiB, passed over).
    """
    reader = _Reader(file, name)
    try:
        yield from reader.read()
    except (_EndOfFile, EOFError, OSError, zlib.error) as error:
        why = f" ({error})" if str(error) else ""
        yield Damage("tar_truncated", f"{name} ends in the middle{why}.")


class _Reader:
    def __init__(self, file: BinaryIO, name: str):
        self.file, self.name = file, name

    def read(self) -> Iterator[Member | Damage]:
        ended, lost = False, 0
        long_name: str | None = None
        while block := self.file.read(BLOCK):
            if len(block) < BLOCK:
                raise _EndOfFile
            if not any(block):
                ended = True
                continue
            header = _header(block)
            if header is None:
                lost += 1
                continue
            if lost:
                yield self._damage(lost)
                ended, lost, long_name = False, 0, None
            if header.type in _NAME_TYPES and header.size <= _CHUNK:
                content = self._content(header.size)
                kind = _NAME_TYPES[header.type]
                long_name = _long_name(content, kind) or long_name
                continue
            if header.isreg() and header.size > MAX_MEMBER:
                yield Damage("large_member", f"{self.name}: {header.name} has {header.size} bytes.")
            elif header.isreg():
                yield Member(long_name or header.name, self._content(header.size))
                ended, long_name = False, None
                continue
            self._pass(header.size if header.type not in _BODILESS else 0)
            ended, long_name = False, None
        if lost:
            yield self._damage(lost)
        if not ended:
            raise _EndOfFile

    def _damage(self, lost: int) -> Damage:
        return Damage("tar_damaged", f"{self.name}: {lost * BLOCK} bytes are no tar.")

    def _content(self, size: int) -> bytes:
        content = self.file.read(size)
        padding = -size % BLOCK
        if len(content) < size or len(self.file.read(padding)) < padding:
            raise _EndOfFile
        return content

    def _pass(self, size: int) -> None:
        left = size + -size % BLOCK
        while left:
            read = len(self.file.read(min(left, _CHUNK)))
            if not read:
                raise _EndOfFile
            left -= read


_BODILESS = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError):
        return None
    return header if header.size >= 0 else None


def _long_name(content: bytes, kind: str) -> str | None:
    if kind == "name":
        return content.rstrip(b"\0").decode("utf-8", "surrogateescape")
    for record in content.split(b"\n"):  # pax: "LENGTH KEY=VALUE\n" each
        _, _, field = record.partition(b" ")
        if field.startswith(b"path="):
            return field[5:].decode("utf-8", "surrogateescape")
    return None


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Puts a file into an archive; the same content gives the same bytes."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    archive.addfile(header, io.BytesIO(content))
