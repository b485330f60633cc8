"""blip-jax evaluate: from a model and a list to scores, submissions and a page."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny
from corpora import write_images
from ml_collections import ConfigDict

from blip_jax.cli import main
from blip_jax.evaluate.published import PAPER, published
from blip_jax.evaluate.scores import lines, name_of, text_table
from blip_jax.evaluate.write import chosen, write_evaluation
from blip_jax.metrics import java
from blip_jax.model import save
from blip_jax.tasks.evaluation import Evaluation, Example, Score

EVIL = "<script>alert('&')</script>"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SAME = [  # as CONFIG has it, so that one program is compiled
    "--config.evaluate.batch_size=4",
    "--config.evaluate.caption.method=greedy",
    "--config.evaluate.caption.min_new_tokens=2",
    "--config.evaluate.caption.max_new_tokens=4",
    "--config.evaluate.caption.repetition_penalty=1.0",
]
CONFIG = """
from ml_collections import ConfigDict

def get_config(variant=""):
    options = {"method": "greedy", "num_beams": 3, "min_new_tokens": 2, "max_new_tokens": 4}
    evaluate = {"annotations": "", "image_root": "", "batch_size": 4, "caption": options,
                "dataset": "coco", "synonyms": ""}
    return ConfigDict({"task": variant or "caption", "evaluate": evaluate})
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A model, a config, and eight images, of which one is broken."""
    root = tmp_path_factory.mktemp("data")
    save(tiny.model(), root / "run" / "model")
    (root / "config.py").write_text(CONFIG)
    write_images(root)
    (root / "3.jpg").write_text("no picture")
    rows = [
        {
            "image": f"{i}.jpg",
            "caption": ["a red star", "two dogs", EVIL],
            "image_id": f"coco_{i + 1:03d}",
            "objects": ["dog"],
        }
        for i in range(8)
    ]
    (root / "list.json").write_text(json.dumps(rows))
    (root / "synonyms.txt").write_text("dog, puppy\nstar\n")
    return root


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda name: None)


def evaluate(root, *flags, config="config.py", annotations="list.json"):
    main(
        [
            *("evaluate", f"--config={root / config}", f"--checkpoint={root / 'run'}"),
            *(f"--out={root / 'out'}", f"--config.evaluate.annotations={root / annotations}"),
            *flags,
        ]
    )


@pytest.fixture(scope="module")
def out(data):
    """What the command wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(java.shutil, "which", lambda name: None)
        evaluate(data, f"--config.evaluate.synonyms={data / 'synonyms.txt'}")
    return data / "out"


def test_results_say_what_was_found_and_what_is_missing(out):
    results = json.loads((out / "results.json").read_text())
    assert results["count"] == 7 and results["skipped"] == {"unreadable_image": 1}
    names = ("cider", "bleu4", "rouge_l", "distinct2", "itc_score", "chair_s", "chair_i")
    for name in names:
        score = results["scores"][name]
        assert score["low"] <= score["value"] <= score["high"], name
    assert set(results["missing"]) == {"meteor", "spice"}
    assert "not installed" in results["missing"]["meteor"]
    assert [p["scores"]["cider"] for p in results["paper"]] == [129.7, 131.4, 133.3, 136.7]


def test_the_submission_is_the_coco_servers(out):
    rows = json.loads((out / "captions.json").read_text())
    assert [row["image_id"] for row in rows] == [1, 2, 3, 5, 6, 7, 8]
    assert all(set(row) == {"image_id", "caption"} for row in rows)
    assert all(isinstance(row["caption"], str) for row in rows)


def test_the_page_is_one_offline_file(out):
    page = (out / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert "http" not in page.replace("http-equiv", "") and "<link" not in page
    assert EVIL not in page and "&lt;script&gt;" in page
    assert page.count("data:image/png;base64,") == 7 and page.count("<svg") == 2
    assert "METEOR" in page and "left out: 1" in page and "Table 7" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_an_error(out, tmp_path, dark):
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions"),
            *("--enable-logging", "--v=0", f"--user-data-dir={tmp_path / 'profile'}"),
            *(("--force-dark-mode",) if dark else ()),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", f"file://{out}/index.html"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "What is missing" in done.stdout and "The worst" in done.stdout
    assert "CONSOLE" not in done.stderr


def test_the_table_stands_beside_the_paper(data, capsys):
    evaluate(data)
    told = capsys.readouterr().out
    assert re.search(
        r"^CIDEr +[\d.]+ +[\d.]+ to [\d.]+ +129\.7 +131\.4 +133\.3 +136\.7$", told, re.M
    )
    assert "[3] paper, Table 7: 129M, CapFilt-L on coco" in told
    assert "METEOR: not computed" in told and "1 left out: unreadable image" in told
    assert "CHAIR: not computed: evaluate.synonyms names no file" in told


def test_nocaps_is_judged_by_domain(data):
    domains = ["in-domain", "near-domain", "out-domain"]
    rows = [
        {"image": f"{i}.jpg", "img_id": 10 + i, "caption": ["a star"], "domain": domains[i % 3]}
        for i in range(8)
    ]
    (data / "nocaps.json").write_text(json.dumps(rows))
    config = Path(__file__).parents[1] / "configs/nocaps.py"
    evaluate(data, *SAME, config=config, annotations="nocaps.json")
    results = json.loads((data / "out/results.json").read_text())
    for domain in ("in", "near", "out", "entire"):
        assert f"{domain}_cider" in results["scores"]
    rows = json.loads((data / "out/nocaps.json").read_text())
    assert [row["image_id"] for row in rows] == [10, 11, 12, 14, 15, 16, 17]


def test_nocaps_without_references_gives_the_submission(data, capsys):
    rows = [{"image": f"{i}.jpg", "img_id": i} for i in (0, 1, 2, 4)]
    (data / "test.json").write_text(json.dumps(rows))
    config = Path(__file__).parents[1] / "configs/nocaps.py"
    evaluate(data, *SAME, config=config, annotations="test.json")
    assert len(json.loads((data / "out/nocaps.json").read_text())) == 4
    assert "the server has them" in capsys.readouterr().out
    assert "nothing to compare with" in (data / "out/index.html").read_text()


NOCAPS = [{"image": "0.jpg", "img_id": 0, "caption": "a star"}]


@pytest.mark.parametrize(
    ("task", "rows", "sentence"),
    [
        ("caption", [], "the list is empty"),
        ("caption", [{"image": "0.jpg"}], 'row 0: field "caption" must be a string'),
        ("caption", [{"caption": "a star"}], 'row 0: field "image" must be a string'),
        (
            "caption",
            [{"image": "3.jpg", "caption": "a"}] * 4,
            "none of the 4 images .* could be read",
        ),
        ("caption", {"a": 1}, "must hold a JSON list"),
        ("nocaps", [], "holds no image"),
        ("nocaps", ["0.jpg"], "row 0: expected an object"),
        ("nocaps", [{"image": "0.jpg"}], 'row 0: field "img_id" must be a number'),
        ("nocaps", [{"img_id": 1}], 'row 0: field "image" must be a string'),
        ("nocaps", [*NOCAPS, {"image": "1.jpg", "img_id": 1}], "row 1: .* every row or in none"),
        ("nocaps", [{**NOCAPS[0], "domain": "far"}], "row 0: .*must be one of in-domain"),
        ("nowhere", NOCAPS, "no module blip_jax.tasks.nowhere"),
        ("contrastive", NOCAPS, "it has no evaluate"),
    ],
)
def test_mistakes_are_told_in_a_sentence(data, capsys, task, rows, sentence):
    (data / "wrong.json").write_text(json.dumps(rows))
    with pytest.raises(SystemExit) as stop:
        evaluate(data, config=f"config.py:{task}", annotations="wrong.json")
    assert stop.value.code == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_what_is_not_given_is_asked_for(data, capsys):
    for flags, sentence in (
        ([], "--config.evaluate.annotations"),
        ([f"--config.evaluate.annotations={data / 'list.json'}"], "--checkpoint is needed"),
        ([f"--config.evaluate.annotation={data / 'list.json'}"], "annotations"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", f"--config={data / 'config.py'}", *flags])
        assert stop.value.code == 2 and sentence in capsys.readouterr().err


def made(values, scores=True) -> Evaluation:
    examples = [Example((), (("answer", str(i)),), v) for i, v in enumerate(values)]
    found = {"accuracy": Score(0.5, 0.25, 0.75), "mean_rank": Score(3.25)} if scores else {}
    return Evaluation(found, len(examples), examples)


def test_examples_are_the_best_the_worst_and_others():
    groups = dict(chosen(made([0.1 * i for i in range(60)])))
    shown = {name: [int(e.lines[0][1]) for e in group] for name, group in groups.items()}
    assert shown["The best"] == list(range(59, 51, -1))
    assert shown["The worst"] == list(range(8))
    assert len(shown["Random"]) == 8 and all(8 <= i < 52 for i in shown["Random"])
    few = dict(chosen(made([3, float("nan"), 2, 1])))
    assert [e.lines[0][1] for e in few["The best"]] == ["0"]
    assert [e.lines[0][1] for e in few["The worst"]] == ["1"]  # what is no number is worst
    assert len(few["Random"]) == 2
    assert list(dict(chosen(made([1, 2], scores=False)))) == ["Random"]


def test_ranks_are_no_percentages():
    rows = lines(made([1]), published("visdial"))
    told = text_table(rows, published("visdial"))
    assert re.search(r"^accuracy +50\.00 +25\.00 to 75\.00$", told, re.M)
    assert re.search(r"^mean rank +3\.25 +3\.2$", told, re.M)


def test_names_are_those_of_the_field():
    assert name_of("itc_tr_r1") == "ITC alone: image to text: recall@1"
    assert name_of("entire_cider") == "entire set: CIDEr"
    assert name_of("accuracy_of_majority") == "accuracy of majority"


def test_the_paper_has_each_model_of_a_table_once():
    keys = [(p.task, p.data, p.model) for p in PAPER]
    assert len(set(keys)) == len(keys)
    assert [p.scores["accuracy"] for p in published("vqa", "vqa_test_dev")] == [77.54, 78.24, 78.25]
    assert len(published("retrieval")) == 12 and published("unknown") == []


def test_a_page_of_nothing_but_numbers(tmp_path):
    evaluation = dataclasses.replace(made([1, 2, 3]), missing={"x": EVIL})
    config = ConfigDict({"task": "visdial", "evaluate": {}})
    page = write_evaluation(evaluation, config, "m", [], tmp_path).read_text()
    assert "mean rank" in page and EVIL not in page
