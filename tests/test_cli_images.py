"""caption, answer, match and embed from the shell, in this process."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from blip_jax import cli
from blip_jax.model import save


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with models and two images, one of them in a folder of its own."""
    root = tmp_path_factory.mktemp("cli")
    for task in ("pretrain", "vqa"):
        save(tiny.model(task), root / task)
    (root / "photos/more").mkdir(parents=True)
    for name, array in zip(("a.png", "more/b.jpg"), tiny.images(2), strict=True):
        Image.fromarray(array).save(root / "photos" / name)
    return root


def run(capsys, *argv):
    """Exit code, lines of stdout, stderr."""
    code = 0
    try:
        cli.main([str(a) for a in argv])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_captions_of_a_folder(capsys, place):
    ask = ("caption", "--model", place / "pretrain", place / "photos", "--method=greedy")
    code, lines, _ = run(capsys, *ask)
    assert code == 0 and len(lines) == 2
    assert [line.split("\t")[0].rsplit("/", 1)[1] for line in lines] == ["a.png", "b.jpg"]
    _, rows, _ = run(capsys, *ask, "--json", "--batch_size=1")
    found = [json.loads(row) for row in rows]
    assert [f"{row['image']}\t{row['caption']}" for row in found] == lines
    assert all(row["log_prob"] < 0 for row in found)


def test_answers_of_a_list(capsys, place):
    (place / "answers.txt").write_text("red\ntwo dogs\n\ncats\n")
    ask = ("answer", "--model", place / "vqa", place / "photos/*.png", "--question=is it red?")
    code, rows, _ = run(
        capsys, *ask, f"--candidates={place / 'answers.txt'}", "--top_n=3", "--json"
    )
    found = [json.loads(row) for row in rows]
    assert code == 0 and {row["answer"] for row in found} == {"red", "two dogs", "cats"}
    assert sum(row["probability"] for row in found) == pytest.approx(1, abs=1e-5)


def test_matches_and_vectors_go_on_past_a_broken_image(capsys, place, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = (place / "photos/a.png", tmp_path / "broken.png", tmp_path / "none.png")
    ask = ("--model", place / "pretrain", *images, "--json")
    code, rows, err = run(capsys, "match", *ask, "--text=a red star", "--text=two dogs")
    found = [json.loads(row) for row in rows]
    assert code == 1 and [row["text"] for row in found] == ["a red star", "two dogs"]
    assert all(0 < row["itm"] < 1 for row in found)
    assert "broken.png" in err and "none.png" in err and "2 of 3 images" in err
    code, rows, _ = run(capsys, "embed", *ask)
    assert code == 1 and len(rows) == 1
    assert np.linalg.norm(json.loads(rows[0])["embedding"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["caption", "--model=x", "{}/*.gif"], "there are no images in"),
        (["caption", "x.png"], "--model"),
        (["answer", "--model={}/vqa", "{}/photos"], "--question"),
        (["answer", "--model={}/pretrain", "{}/photos", "--question=why"], "task 'pretrain'"),
        (["caption", "--model={}/vqa", "{}/photos", "--method=top"], "--method"),
    ],
)
def test_mistakes(capsys, place, argv, sentence):
    code, lines, err = run(capsys, *(a.format(place) for a in argv))
    assert code == 2 and not lines and sentence in err and len(err.splitlines()) == 1
