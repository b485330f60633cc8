"""Publishers' files to the original's lists, and those lists read."""

import json
import sys
from pathlib import Path

import pytest
from corpora import jpeg

from blip_jax.cli import main
from blip_jax.data.annotations import read_questions, read_statements
from blip_jax.data.publishers import translate
from blip_jax.data.records import read_json


def save(path: Path, value: object) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def place(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg())


def main_done(*argv: str) -> None:
    """Runs a command, which must not fail."""
    main(list(argv))


def karpathy(split: str, number: int) -> dict:
    return {
        "filepath": "val2014",
        "filename": f"COCO_val2014_{number:012d}.jpg",
        "split": split,
        "cocoid": number,
        "imgid": number,
        "sentences": [{"raw": f"A dog {number}.", "tokens": ["a"]}, {"raw": "Two dogs."}],
    }


def test_karpathy_splits_become_records(tmp_path):
    images = [karpathy(s, i) for i, s in enumerate(("train", "restval", "val", "test"))]
    source = save(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    with pytest.raises(SystemExit) as stopped:
        main(["data", "annotations", source, "--of=coco", f"--out={tmp_path}"])
        sys.exit(0)
    assert stopped.value.code == 0
    place(tmp_path, *(f"val2014/COCO_val2014_{i:012d}.jpg" for i in range(4)))
    train = read_json(tmp_path / "coco_karpathy_train.json")
    assert [r.image_id for r in train] == ["coco_0", "coco_0", "coco_1", "coco_1"]
    assert [r.captions for r in train][:2] == [("A dog 0.",), ("Two dogs.",)]
    (test,) = read_json(tmp_path / "coco_karpathy_test.json")
    assert test.captions == ("A dog 3.", "Two dogs.")
    rows = translate("flickr30k", [source])["flickr30k_train"]
    assert rows[0]["image"] == "flickr30k-images/COCO_val2014_000000000000.jpg"
    assert rows[0]["image_id"] == "0"


def test_questions_of_vqa_and_visual_genome(tmp_path):
    question = {"image_id": 9, "question": "What?", "question_id": 90}
    asked = save(
        tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", {"questions": [question]}
    )
    answers = [{"answer": a, "answer_id": i} for i, a in enumerate(["cat"] * 3 + ["dog"])]
    told = {"annotations": [{"question_id": 90, "answers": answers}]}
    told = save(tmp_path / "v2_mscoco_train2014_annotations.json", told)
    lists = translate("vqa", [asked, told])
    place(tmp_path, "train2014/COCO_train2014_000000000009.jpg", "VG_100K_2/1.jpg")
    (row,) = read_questions(save(tmp_path / "q.json", lists["vqa_train"]))
    assert row.weights() == {"cat": 0.75, "dog": 0.25} and row.question_id == 90
    test = save(tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json", {"questions": [question]})
    (row,) = translate("vqa", [test])["vqa_test"]
    assert "answer" not in row and row["image"] == "test2015/COCO_test2015_000000000009.jpg"
    url = "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg"
    images = save(tmp_path / "image_data.json", [{"image_id": 1, "url": url}])
    qa = {"qa_id": 5, "image_id": 1, "question": "Why?", "answer": "Because."}
    pairs = save(tmp_path / "question_answers.json", [{"id": 1, "qas": [qa]}])
    (row,) = read_questions(save(tmp_path / "vg.json", translate("vg", [images, pairs])["vg_qa"]))
    assert row.weights() == {"Because": 0.2} and row.image == tmp_path / "VG_100K_2/1.jpg"


def test_statements_of_nlvr2(tmp_path):
    train = {
        "identifier": "train-10171-0-0",
        "directory": 27,
        "sentence": "One dog.",
        "label": "True",
    }
    dev = {"identifier": "dev-850-0-1", "sentence": "No dog.", "label": "False"}
    rows = translate("nlvr2", [save(tmp_path / "train.json", json.dumps(train) + "\n")])[
        "nlvr_train"
    ]
    assert rows[0]["images"][1] == "images/train/27/train-10171-0-img1.png"
    rows = translate("nlvr2", [save(tmp_path / "dev.json", json.dumps(dev))])["nlvr_dev"]
    place(tmp_path, "dev/dev-850-0-img0.png", "dev/dev-850-0-img1.png")
    (found,) = read_statements(save(tmp_path / "n.json", rows))
    assert found.label is False and found.images[0] == tmp_path / "dev/dev-850-0-img0.png"
    assert found.uid == "dev-850-0-1"


def test_statements_of_nlvr_are_split_by_sentence(shared, tmp_path, capsys):
    source, out = str(shared / "nlvr1/dev.json"), str(tmp_path)
    main_done("data", "annotations", source, "--of=nlvr", f"--out={out}")
    main_done("data", "split", f"{out}/nlvr1_dev.json", "--by=sentence", f"--out={out}")
    train, val = (
        read_statements(tmp_path / f"nlvr1_dev_{side}.json", shared / "nlvr1")
        for side in ("train", "val")
    )
    assert len(train) + len(val) == 989 and 0.1 < len(val) / 989 < 0.3
    assert not {s.sentence for s in train} & {s.sentence for s in val}
    for arguments, sentence in (
        (["--by=picture"], 'row 0 has no field "picture"'),
        (["--by=sentence", "--share=1.5"], "--share is 1.5"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["data", "split", f"{out}/nlvr1_dev.json", *arguments, f"--out={out}"])
        assert stopped.value.code == 2 and sentence in capsys.readouterr().err


def test_nocaps_with_captions_and_domains(tmp_path):
    whole = {
        "images": [{"id": 3, "file_name": "a.jpg", "domain": "out-domain"}],
        "annotations": [{"image_id": 3, "caption": text} for text in ("a star", "a ring")],
    }
    path = save(tmp_path / "nocaps_val_4500_captions.json", whole)
    (row,) = translate("nocaps", [path])["nocaps_val"]
    assert row["caption"] == ["a star", "a ring"] and row["domain"] == "out-domain"


def test_nocaps_and_msrvtt(tmp_path):
    info = {"images": [{"id": 3, "file_name": "0013.jpg", "domain": "near-domain"}]}
    path = save(tmp_path / "nocaps_val_image_info.json", info)
    assert translate("nocaps", [path]) == {"nocaps_val": [{"image": "val/0013.jpg", "img_id": 3}]}
    path = save(tmp_path / "t.csv", "key,vid_key,video_id,sentence\nret0,msr7020,video7020,a man\n")
    assert translate("msrvtt", [path]) == {
        "msrvtt_test": [{"clip_name": "video7020", "caption": "a man"}]
    }


def test_what_is_not_as_published_is_named(tmp_path):
    path = save(tmp_path / "x.json", {"pictures": []})
    for name in ("coco", "nlvr2", "nocaps"):
        with pytest.raises(ValueError, match="x.json: not as"):
            translate(name, [path])
    with pytest.raises(ValueError, match="x.json: expected train2014, val2014 or test2015"):
        translate("vqa", [path])
    with pytest.raises(ValueError, match="expected image_data.json and question_answers.json"):
        translate("vg", [path])
    with pytest.raises(FileNotFoundError):
        translate("coco", [str(tmp_path / "gone.json")])
    place(tmp_path, "a.png")
    good = {"images": ["a.png", "a.png"], "sentence": "s", "label": "True"}
    for field, value in (("images", ["a.png"]), ("label", "yes"), ("sentence", 3)):
        with pytest.raises(ValueError, match=f'row 1: field "{field}"'):
            read_statements(save(tmp_path / "n.json", [good, good | {field: value}]))
    question = {"question_id": 1, "image": "a.png", "question": "q", "answer": "a"}
    for field, value in (("question_id", None), ("image", 3), ("answer", [1])):
        with pytest.raises(ValueError, match=f'row 0: field "{field}"'):
            read_questions(save(tmp_path / "q.json", [question | {field: value}]))
    with pytest.raises(FileNotFoundError, match="gone.png"):
        read_questions(save(tmp_path / "q.json", [question | {"image": "gone.png"}]))


def test_real_questions_in_the_originals_layout(shared):
    rows = read_questions(shared / "daquar/train.json")
    assert len(rows) == 6795 and all(row.answers and row.image.is_file() for row in rows)
