"""What a finished run says of itself: sizes, DataComp's uids, a dataset card, Croissant.

All of it is a function of run.json, the markers and the scores, so that whichever process comes
last writes the same bytes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2
import numpy as np

from blip_jax.capfilt.outputs import SUFFIXES
from blip_jax.capfilt.table import schema
from blip_jax.data import storage

_HEX = re.compile(r"[0-9a-f]{32}")
UIDS = "uids.npy"
MEDIA = {
    "tar": "application/x-tar",
    "parquet": "application/x-parquet",
    "json": "application/json",
    "array_record": "application/octet-stream",
}
_TYPES = {"string": "sc:Text", "int64": "sc:Integer", "int32": "sc:Integer", "float": "sc:Float",
          "bool": "sc:Boolean"}  # fmt: skip
# Croissant 1.0's own context, which its validators expect word for word.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in (
        "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject",
        "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
        "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
        "separator", "source", "subField", "transform",
    )},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
}  # fmt: skip


def write(out: str, facts: dict[str, Any], markers: Sequence[dict[str, Any]]) -> None:
    """Writes data/sizes.json (for tars), uids.npy (where uids are DataComp's), croissant.json and
    README.md into a run's folder."""
    if facts["to"] == "webdataset":
        sizes = {f"{m['name']}.tar": m["samples"] for m in markers if m["samples"]}
        storage.write_bytes(storage.join(out, "data/sizes.json"), _dumps(sizes))
    uids = kept_uids(out, markers)
    if uids is not None:
        storage.write_array(storage.join(out, UIDS), uids)
    storage.write_bytes(storage.join(out, "croissant.json"), _dumps(croissant(facts, markers)))
    page = card(facts, markers, uids is not None)
    storage.write_bytes(storage.join(out, "README.md"), page.encode())


def kept_uids(out: str, markers: Sequence[dict[str, Any]]) -> np.ndarray | None:
    """DataComp's list of the images that keep a text: its resharder takes dtype u8,u8, the first
    and the last 16 hex digits, in order. Holds 16 bytes an image; None if a uid is not 32 hex
    digits."""
    parts = []
    for marker in markers:
        uids = list(_kept(storage.join(out, f"scores/{marker['name']}.parquet")))
        if not all(_HEX.fullmatch(uid) for uid in uids):
            return None
        pairs = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
        parts.append(np.array(pairs, "u8,u8"))
    found = np.concatenate(parts) if parts else np.zeros(0, "u8,u8")
    return np.sort(found) if len(found) else None


def _kept(place: str) -> Iterator[str]:
    from pyarrow import parquet

    with storage.open_binary(place) as file:
        for batch in parquet.ParquetFile(file).iter_batches(columns=["uid", "texts"]):
            for row in batch.to_pylist():
                if any(text["keep"] for text in row["texts"]):
                    yield row["uid"]


def croissant(facts: dict[str, Any], markers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Croissant 1.0 with RAI's provenance: data files with their sums, the columns of scores."""
    suffix = SUFFIXES[facts["to"]]
    files = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "contentUrl": name,
            "contentSize": f"{file['bytes']} B",
            "encodingFormat": MEDIA[suffix],
            "sha256": file["sha256"],
        }
        for marker in markers
        for name, file in marker["files"].items()
        if name.startswith("data/")
    ]
    scores = {
        "@type": "cr:FileSet",
        "@id": "scores",
        "encodingFormat": MEDIA["parquet"],
        "includes": "scores/*.parquet",
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": _name(facts),
        "description": _sentence(facts),
        "version": "1.0.0",
        "rai:dataCollection": f"Images and web texts of {facts['corpus']}, as they were.",
        "rai:hasSyntheticData": True,
        "rai:machineAnnotationTools": [
            f"captioner {facts['captioner']['source']} sha256:{facts['captioner']['sha256']}",
            f"filter {facts['filter']['source']} sha256:{facts['filter']['sha256']}",
        ],
        "rai:dataAnnotationProtocol": json.dumps(
            {key: facts[key] for key in ("caption", "seed", "threshold", "max_tokens")},
            sort_keys=True,
        ),
        "distribution": [scores, *files],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "description": "A row for every row of the corpus.",
                "field": [_field(column) for column in schema()],
            }
        ],
    }


def _field(column: Any) -> dict[str, Any]:
    field = {"@type": "cr:Field", "@id": f"rows/{column.name}", "name": column.name}
    source = {"fileSet": {"@id": "scores"}, "extract": {"column": column.name}}
    if column.name != "texts":
        return field | {"dataType": _TYPES[str(column.type)], "source": source}
    parts = [
        {
            "@type": "cr:Field",
            "@id": f"rows/texts/{part.name}",
            "name": part.name,
            "dataType": _TYPES[str(part.type)],
            "source": source | {"transform": {"jsonPath": f"$[*].{part.name}"}},
        }
        for part in column.type.value_type
    ]
    return field | {"repeated": True, "subField": parts}


def card(facts: dict[str, Any], markers: Sequence[dict[str, Any]], uids: bool) -> str:
    """The dataset card, Markdown with the front matter that hubs read."""
    status, texts, kept = (
        sum((Counter(m[key]) for m in markers), Counter()) for key in ("status", "texts", "kept")
    )
    settings = {key: facts[key] for key in ("seed", "max_tokens", "batch_size", "shared_tower")}
    return _CARD.render(
        name=_name(facts),
        sentence=_sentence(facts),
        facts=facts,
        settings=facts["caption"] | settings,
        rows=sum(m["rows"] for m in markers),
        samples=sum(m["samples"] for m in markers),
        status=dict(sorted(status.items())),
        texts={origin: (count, kept[origin]) for origin, count in sorted(texts.items())},
        suffix=SUFFIXES[facts["to"]],
        uids=UIDS if uids else None,
    )


def _name(facts: dict[str, Any]) -> str:
    stem = re.sub(r"[^\w-]+", "-", storage.stem(facts["corpus"])).strip("-")
    return f"{stem or 'corpus'}-capfilt"


def _sentence(facts: dict[str, Any]) -> str:
    return (
        f"{facts['corpus']}, recaptioned and filtered with BLIP's CapFilt (arXiv 2201.12086): "
        f"web and synthetic texts with an image-text matching probability of at least "
        f"{facts['threshold']} are marked as kept."
    )


def _dumps(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


_CARD = jinja2.Environment(
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
).from_string("""\
---
pretty_name: {{ name }}
annotations_creators:
- machine-generated
source_datasets:
- {{ facts.corpus | tojson }}
task_categories:
- image-to-text
tags:
- synthetic
- blip
- capfilt
configs:
- config_name: scores
  data_files: scores/*.parquet
---

# {{ name }}

{{ sentence }}
Images are the bytes they were; web texts are as they were.

| | |
| --- | --- |
| rows | {{ rows }} |
{% for name, count in status.items() %}
| of these {{ name }} | {{ count }} |
{% endfor %}
{% for origin, (count, kept) in texts.items() %}
| {{ origin }} texts | {{ count }}, {{ kept }} kept |
{% endfor %}
| samples in data/*.{{ suffix }} | {{ samples }} |

## How it was made

| | |
| --- | --- |
| captioner | `{{ facts.captioner.source }}`, sha256 `{{ facts.captioner.sha256 }}` |
| filter | `{{ facts.filter.source }}`, sha256 `{{ facts.filter.sha256 }}` |
| threshold | ITM probability {{ facts.threshold }} |
{% for key, value in settings.items() %}
| {{ key }} | {{ value | tojson }} |
{% endfor %}
{% for key, value in facts.versions.items() %}
| {{ key }} | {{ value }} |
{% endfor %}

## What is where

- `data/`: {{ facts.to }}.
- `scores/NAME.parquet`: a row for every row of the corpus, those that were lost too, with the
  reason; every text with its log-probability, ITM probability and ITC cosine.
- `embeddings/NAME.npy`: ITC image embeddings, float16, a row for each of the scores' rows.
- `scores/NAME_stats.json`: counts, seconds, and the sums of the files of a shard.
{% if uids %}
- `{{ uids }}`: uids of the images that keep a text, for DataComp's resharder.
{% endif %}
""")
