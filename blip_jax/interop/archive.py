"""Zip archives of tensors, opened with care: whoever wrote them may not wish us well."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path


class Refused(ValueError):
    """What a file asks for, or lacks; completes a sentence that starts with its name."""


@contextlib.contextmanager
def open_archive(path: Path, kind: str, ratio: int) -> Iterator[zipfile.ZipFile]:
    """A zip archive, whose name every error inside begins with.

    Args:
      kind: what the file should have been.
      ratio: times its size that an honest one unpacks to at most.

    Raises:
      OSError: the file cannot be read.
      ValueError: anything else; a damaged file can raise nearly anything.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > ratio * os.path.getsize(path):
                raise Refused(f"is no {kind}: it would unpack to {unpacked} bytes")
            yield archive
    except Refused as error:
        raise ValueError(f"{path} {error}") from error
    except MemoryError as error:
        raise ValueError(f"{path} asks for more memory than there is") from error
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a whole {kind}: {error}") from error
