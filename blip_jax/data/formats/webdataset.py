"""WebDataset tars as img2dataset writes them, with parquet and _stats.json beside."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from blip_jax.data import storage
from blip_jax.data.formats import tar
from blip_jax.data.formats.shard import Layout, Shard, shard_name
from blip_jax.data.formats.tables import parquet_rows
from blip_jax.data.record import Record, Skip
from blip_jax.data.rows import SYNTHETIC, texts_of, to_json, with_words

SUFFIXES = (".tar", ".tar.gz", ".tgz")
IMAGES = ("jpg", "jpeg", "png", "webp")
_SAFE_KEY = re.compile(r"[\w-]+")


def shards(files: Iterable[str], layout: Layout) -> list[Shard]:
    """A shard for each tar."""
    names = [(shard_name(file, layout.root), file) for file in files]
    return [Shard(name, file, partial(read, file, layout, name)) for name, file in names]


def read(file: str, layout: Layout, name: str) -> Iterator[Record | Skip]:
    """A tar's records, then one skip for each row of its parquet that the tar lacks.

    Skips: no_image, bad_text, empty_caption, duplicate_key; not_downloaded for rows that
    img2dataset could not fetch; tar_truncated, tar_damaged, large_member for the archive.
    """
    keys: set[str] = set()
    with storage.open_binary(file) as stream:
        for sample in samples(tar.members(stream, file)):
            if isinstance(sample, tar.Damage):
                yield Skip(f"{layout.source}/{name}", sample.reason, sample.detail)
                continue
            key, parts = sample
            uid = f"{layout.source}/{name}/{key}"
            if key in keys:
                yield Skip(uid, "duplicate_key", f"{file} holds {key} twice.")
                continue
            keys.add(key)
            yield to_record(uid, key, parts, layout)
    yield from _absent(file, layout, name, keys)


def samples(
    members: Iterable[tar.Member | tar.Damage],
) -> Iterator[tuple[str, dict[str, bytes]] | tar.Damage]:
    """Neighbouring files that share the name up to the first dot, as {suffix: content}."""
    for group in groups(members):
        if isinstance(group, tar.Damage):
            yield group
        else:
            key, found = group
            yield key, {_split(member)[1].lower(): member.content for member in found}


def groups(
    members: Iterable[tar.Member | tar.Damage],
) -> Iterator[tuple[str, list[tar.Member]] | tar.Damage]:
    """The same as the files themselves."""
    key = ""
    found: list[tar.Member] = []
    for member in members:
        if isinstance(member, tar.Damage):
            yield member
            continue
        stem = _split(member)[0]
        if stem != key:
            if found:
                yield key, found
            key, found = stem, []
        found.append(member)
    if found:
        yield key, found


def _split(member: tar.Member) -> tuple[str, str]:
    """a/b.syn.json -> a/b, syn.json"""
    folder, slash, name = member.name.rpartition("/")
    stem, _, suffix = name.partition(".")
    return folder + slash + stem, suffix


def to_record(uid: str, key: str, parts: Mapping[str, bytes], layout: Layout) -> Record | Skip:
    """A sample's record; its texts are .txt, or the .json's captions, and .syn.json."""
    try:
        fields = _object(parts.get("json", b"{}"))
        synthetic = texts_of(_object(parts.get("syn.json", b"{}")).get(SYNTHETIC, ()))
        text = parts["txt"].decode("utf-8") if "txt" in parts else None
    except (ValueError, RecursionError) as error:
        return Skip(uid, "bad_text", f"{uid}: its .txt or .json cannot be read: {error}.")
    uid = str(fields.get("uid") or uid)
    image = next((parts[suffix] for suffix in IMAGES if suffix in parts), None)
    if image is None:
        return Skip(uid, "no_image", f"{uid} has no image, only {', '.join(parts)}.", fields)
    column = layout.caption or ("captions" if "captions" in fields else "caption")
    captions = texts_of(fields.get(column) or ()) if column in fields else ()
    if captions is None or synthetic is None:
        return Skip(uid, "bad_text", f"{uid}: expected texts in its .json.", fields)
    if text is not None and text not in captions and not layout.caption:
        captions = (text,)
    captions, synthetic = with_words(captions), with_words(synthetic)
    if not captions and not synthetic:
        return Skip(uid, "empty_caption", f"{uid} has no caption once cleaned.", fields)
    used = ("uid", "caption", "captions", "image_id", "source")
    extra = {k: v for k, v in fields.items() if k not in used} | {"key": key}
    image_id = str(fields.get("image_id") or uid)
    source = str(fields.get("source") or layout.source)
    return Record(uid, image, captions, image_id, extra, synthetic, source)


class Writer:
    """Writes records as a tar that the webdataset library and img2dataset's users read.

    Members: KEY.jpg|png|webp with the bytes untouched, KEY.txt the first caption, KEY.json all
    fields, KEY.syn.json the synthetic texts.
    """

    suffix = "tar"

    def __init__(self, path: Path):
        self._archive = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self._keys: set[str] = set()

    def write(
        self, record: Record, image: bytes, form: str, more: Mapping[str, Any] | None = None
    ) -> None:
        """Adds a record; `form` is what the image bytes are: jpg, png or webp. `more` is what
        KEY.syn.json tells besides."""
        key = self._key(record)
        fields: dict[str, Any] = {**record.extra, "uid": record.uid, "image_id": record.image_id}
        fields |= {"captions": list(record.captions), "source": record.source, "key": key}
        fields |= {"caption": record.captions[0]} if record.captions else {}
        tar.add(self._archive, f"{key}.{form}", image)
        if record.captions:
            tar.add(self._archive, f"{key}.txt", record.captions[0].encode())
        tar.add(self._archive, f"{key}.json", to_json(fields))
        if record.synthetic or more:
            written = {SYNTHETIC: list(record.synthetic), **(more or {})}
            tar.add(self._archive, f"{key}.syn.json", to_json(written))

    def close(self) -> None:
        """Ends the archive."""
        self._archive.close()

    def _key(self, record: Record) -> str:
        key = str(record.extra.get("key", ""))
        if not _SAFE_KEY.fullmatch(key) or key in self._keys:
            key = f"{len(self._keys):09d}"
            while key in self._keys:
                key += "x"
        self._keys.add(key)
        return key


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    return found


def _absent(file: str, layout: Layout, name: str, keys: set[str]) -> Iterator[Skip]:
    """Rows of the parquet beside the tar whose key the tar does not hold."""
    beside = re.sub(r"\.(tar|tar\.gz|tgz)$", ".parquet", file)
    if not storage.exists(beside):
        return
    for _, row in parquet_rows(beside):
        if isinstance(row, Skip):
            yield row
            continue
        key = str(row.get("key"))
        if key not in keys:
            why = row.get("error_message") or row.get("status") or "not in the tar"
            uid = str(row.get("uid") or f"{layout.source}/{name}/{key}")
            reason = "not_in_tar" if row.get("status") == "success" else "not_downloaded"
            yield Skip(uid, reason, f"{file}: {key}: {why}.", row)
