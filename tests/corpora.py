"""Small image-text data in every format, to read and to break."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CAPTIONS = [f"a picture of thing {i}" for i in range(8)]


def jpeg(seed: int = 0, width: int = 40, height: int = 30) -> bytes:
    """A small smooth photo-like image, other for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def fields(i: int) -> dict[str, Any]:
    """What img2dataset puts into the .json of a sample."""
    url = f"https://example.org/{i}.jpg"
    return {"caption": CAPTIONS[i], "url": url, "key": f"{i:09d}", "status": "success", "width": 40}


def write_tar(path: Path, samples: range = range(8)) -> Path:
    """A tar as img2dataset lays it out, by the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for i in samples:
            parts = {"jpg": jpeg(i), "json": json.dumps(fields(i)).encode()}
            parts["txt"] = CAPTIONS[i].encode()
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def write_images(folder: Path, count: int = 8) -> Path:
    """Images 0.jpg, 1.jpg, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    return folder
