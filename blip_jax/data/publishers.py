"""From the files that data sets are published in to the original's annotation lists.

Image paths come out as the archives unpack: train2014/COCO_train2014_000000000009.jpg,
flickr30k-images/36979.jpg, VG_100K/1.jpg, images/train/27/train-10171-0-img0.png, val/X.jpg.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blip_jax.data import storage

Lists = dict[str, list[dict[str, Any]]]  # a list for each file, by its name


def coco(files: Sequence[str]) -> Lists:
    """Karpathy's dataset_coco.json: train with restval a caption a row, val and test an image."""
    (images,) = _read(files, "dataset_coco.json", "images")
    return _karpathy(images, "coco_karpathy", "{filepath}/{filename}", "coco_{cocoid}")


def flickr30k(files: Sequence[str]) -> Lists:
    """Karpathy's dataset_flickr30k.json, in the same way."""
    (images,) = _read(files, "dataset_flickr30k.json", "images")
    return _karpathy(images, "flickr30k", "flickr30k-images/{filename}", "{imgid}")


def vqa(files: Sequence[str]) -> Lists:
    """VQA v2: a questions file and, but for the test split, its annotations."""
    # The images of test-dev are those of test.
    name = storage.stem(files[0]).replace("test-dev", "test")
    split = next((s for s in ("train2014", "val2014", "test2015") if s in name), None)
    if split is None:
        raise ValueError(f"{files[0]}: expected train2014, val2014 or test2015 in its name.")
    wanted = "questions.json and annotations.json"
    questions, *answers = _read(files, wanted, "questions", "annotations", least=1)
    known = {a["question_id"]: a for a in (answers or [[]])[0]}
    rows = []
    for row in questions:
        found = {
            "question_id": row["question_id"],
            "question": row["question"],
            "image": f"{split}/COCO_{split}_{row['image_id']:012d}.jpg",
            "dataset": "vqa",
        }
        if answers:
            said = known[row["question_id"]]
            found["answer"] = [person["answer"] for person in said["answers"]]
            if "answer_type" in said:
                found["answer_type"] = said["answer_type"]
        rows.append(found)
    return {f"vqa_{split.rstrip('0123456789')}": rows}


def vg(files: Sequence[str]) -> Lists:
    """Visual Genome: image_data.json and question_answers.json."""
    places, groups = _read(files, "image_data.json and question_answers.json", None, None)
    folder = {p["image_id"]: "/".join(p["url"].split("/")[-2:]) for p in places}
    rows = [
        {
            "question_id": qa["qa_id"],
            "question": qa["question"],
            "answer": qa["answer"].rstrip("."),
            "image": folder[group.get("id", qa["image_id"])],
            "dataset": "vg",
        }
        for group in groups
        for qa in group["qas"]
    ]
    return {"vg_qa": rows}


def nlvr2(files: Sequence[str]) -> Lists:
    """NLVR2's JSON lines of a split: train.json, dev.json or test1.json."""
    rows: list[dict[str, Any]] = []
    for line in _text(files[0]).splitlines():
        row = json.loads(line)
        split, *_ = row["identifier"].split("-")
        name = row["identifier"].rpartition("-")[0]
        folder = f"images/train/{row['directory']}" if split == "train" else split
        images = [f"{folder}/{name}-img{side}.png" for side in (0, 1)]
        kept = {key: row[key] for key in ("sentence", "label", "identifier") if key in row}
        rows.append({"images": images} | kept)
    return {f"nlvr_{storage.stem(files[0]).removesuffix('1')}": rows}


def nlvr(files: Sequence[str]) -> Lists:
    """NLVR 1.0's JSON lines of a split: train.json, dev.json or test.json.

    A sentence is true of its picture in whatever order the three boxes come, so that the first
    two orders stand for the two images.
    """
    split, rows = storage.stem(files[0]), []
    for line in _text(files[0]).splitlines():
        row = json.loads(line)
        place = f"images/{row['directory']}/{split}-{row['identifier']}"
        kept = {key: row[key] for key in ("sentence", "label", "identifier") if key in row}
        rows.append({"images": [f"{place}-{order}.png" for order in (0, 1)]} | kept)
    return {f"nlvr1_{split}": rows}


def nocaps(files: Sequence[str]) -> Lists:
    """NoCaps' image list: nocaps_val_4500_captions.json, or without captions the other two."""
    (whole,) = _read(files, "nocaps_val_4500_captions.json", None)
    split = "test" if "test" in storage.stem(files[0]) else "val"
    captions: dict[int, list[str]] = {}
    for row in whole.get("annotations", ()):
        captions.setdefault(row["image_id"], []).append(row["caption"])
    rows = []
    for row in whole["images"]:
        judged = {"domain": row["domain"], "caption": captions[row["id"]]} if captions else {}
        rows.append({"image": f"{split}/{row['file_name']}", "img_id": row["id"]} | judged)
    return {f"nocaps_{split}": rows}


def msrvtt(files: Sequence[str]) -> Lists:
    """MSRVTT_JSFUSION_test.csv, the 1,000 pairs of the 1k-A test."""
    table = csv.DictReader(io.StringIO(_text(files[0])))
    rows = [{"clip_name": row["video_id"], "caption": row["sentence"]} for row in table]
    return {"msrvtt_test": rows}


PUBLISHERS: dict[str, Callable[[Sequence[str]], Lists]] = {
    f.__name__: f for f in (coco, flickr30k, vqa, vg, nlvr2, nlvr, nocaps, msrvtt)
}


def translate(name: str, files: Sequence[str]) -> Lists:
    """The lists of one publisher's files.

    Raises:
      FileNotFoundError: a file that is not there.
      ValueError: files that are not as published.
    """
    try:
        return PUBLISHERS[name](files)
    except (KeyError, IndexError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{', '.join(files) or 'no files'}: not as {name} is published ({error!r}); expected "
            f"{PUBLISHERS[name].__doc__}"
        ) from error


def _karpathy(images: Sequence[Mapping[str, Any]], name: str, path: str, image_id: str) -> Lists:
    lists: Lists = {f"{name}_{split}": [] for split in ("train", "val", "test")}
    for image in images:
        place = {"image": path.format(**image)}
        texts = [sentence["raw"] for sentence in image["sentences"]]
        if image["split"] in ("train", "restval"):
            row = place | {"image_id": image_id.format(**image)}
            lists[f"{name}_train"] += [row | {"caption": text} for text in texts]
        else:
            lists[f"{name}_{image['split']}"].append(place | {"caption": texts})
    return lists


def _read(files: Sequence[str], wanted: str, *keys: str | None, least: int = 0) -> list[Any]:
    """The files' JSON, each the list under its key."""
    if not (least or len(keys)) <= len(files) <= len(keys):
        raise ValueError(f"expected {wanted}; got {len(files)} files.")
    found = [json.loads(_text(file)) for file in files]
    return [v if key is None else v[key] for v, key in zip(found, keys, strict=False)]


def _text(file: str) -> str:
    with storage.open_binary(file) as stream:
        return stream.read().decode("utf-8")
