"""The report of a run: its numbers, its pictures, and that it is one safe file."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from blip_jax.bootstrap import report
from blip_jax.bootstrap.report import write_report
from blip_jax.bootstrap.sources import Sources
from blip_jax.bootstrap.stages import truth_summary
from blip_jax.capfilt.select import summary
from blip_jax.data import world
from blip_jax.data.records import read_json
from blip_jax.files import write_json, write_json_lines, write_text
from blip_jax.page import picture

EVIL = "<script>alert('&')</script>"
SCORES = {
    "cider": 0.25, "bleu4": 0.125, "caption_truth": 0.5, "itc_tr_r1": 0.1, "itc_ir_r1": 0.1,
    "itc_r_mean": 0.2, "itm_tr_r1": 0.3, "itm_ir_r1": 0.3, "itm_r_mean": 0.4, "match_auc": 0.75,
    "match_accuracy": 0.625,
}  # fmt: skip
BETTER = SCORES | {"cider": 0.625, "itm_tr_r1": 0.2}


def make_sources(root: Path) -> Sources:
    world.build(root / "world", num_web=60, num_clean=4, num_val=16)
    truth = json.loads((root / "world" / "truth.json").read_text())
    names = ("web", "clean", "val")
    return Sources(*(read_json(root / "world" / f"{name}.json") for name in names), truth)


def make_rows(sources: Sources) -> list[dict]:
    """A filter that is right about most; a captioner that writes the truth every other time."""
    rng, rows = np.random.default_rng(0), []
    for i, record in enumerate(sources.web):
        truth = sources.truth[record.image_id]
        true = world.describe(world.Scene.from_dict(truth["scene"]), rng)
        rows.append({
            "uid": record.uid, "image": str(record.image), "image_id": record.image_id,
            "status": "ok", "web_text": record.captions[0],
            "web_itm": float(np.clip(0.2 + 0.6 * truth["true"] + rng.normal(0, 0.2), 0, 1)),
            "web_itc": 0.1, "syn_text": [EVIL if i % 2 else true], "syn_log_prob": [-1.0],
            "syn_itm": [0.1 if i % 2 else 0.9], "syn_itc": [0.2],
        })  # fmt: skip
    rows[3] = {k: rows[3][k] for k in ("uid", "image", "image_id", "web_text")}
    rows[3]["status"] = "damaged"
    return rows


def make_workdir(root: Path, sources: Sources, scores: list[dict]) -> ConfigDict:
    """The artefacts of a run that ended with these scores, the numbers drawn."""
    config = ConfigDict({"rounds": len(scores) - 1, "capfilt": {"threshold": 0.5}, "odd": EVIL})
    rows = make_rows(sources)
    for number, score in enumerate(scores):
        folder = root / f"round{number}"
        captions = [r.captions[0] if number else EVIL for r in sources.val]
        write_json(folder / "pretrain" / "evaluation.json", {"scores": score, "captions": captions})
        parts = {"pretrain": ("itc", "itm", "lm"), "captioner": ("lm",), "filter": ("itc", "itm")}
        for stage, names in parts.items():
            steps = [
                {"step": step, "loss": 5 / step, **{f"loss_{n}": 2 / step for n in names}}
                for step in (10, 20, 30)
            ]
            write_json_lines(folder / stage / "metrics.jsonl", steps)
        if number < config.rounds:
            write_json_lines(folder / "capfilt" / "00000.jsonl", rows[:20])
            write_json_lines(folder / "capfilt" / "00001.jsonl", rows[20:])
            known = truth_summary(rows, sources, 0.5)
            write_json(folder / "capfilt" / "summary.json", summary(rows, 0.5) | known)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Sources, workdir and page of a run of one round."""
    root = tmp_path_factory.mktemp("run")
    sources = make_sources(root)
    config = make_workdir(root, sources, [SCORES, BETTER])
    return sources, root, write_report(config, root, sources).read_text()


class Links(HTMLParser):
    """Every attribute that makes a browser load something, every tag, every empty figure."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]


def test_results_hold_the_numbers(run):
    sources, root, _ = run
    results = json.loads((root / "results.json").read_text())
    assert results["rounds"] == {"round0": SCORES, "round1": BETTER}
    assert results["change"]["cider"] == pytest.approx(0.375)
    assert results["change"]["itm_tr_r1"] == pytest.approx(-0.1)
    assert results["chance_recall_at_1"] == 1 / 16
    facts = results["capfilt"]["round0"]
    assert facts["unreadable"] == 1 and facts["images"] == 60
    assert facts["web_true_share"] == pytest.approx(
        np.mean([sources.truth[r.image_id]["true"] for i, r in enumerate(sources.web) if i != 3])
    )
    assert results["data"]["val"] == {
        "rows": 16, "texts": 80, "images": 16, "skipped": {}, "skipped_examples": []
    }  # fmt: skip
    assert results["last_step"]["round1/pretrain"]["step"] == 30


def test_headline_is_honest(run):
    assert report.headline([SCORES, BETTER]) == (
        "After CapFilt, caption CIDEr rose from 25.0 to 62.5, image-to-text recall@1 fell from "
        "30.0% to 20.0% and the share of right captions stayed at 50.0%."
    )
    assert "fell from 62.5 to 25.0" in report.headline([BETTER, SCORES])
    assert "2 rounds of CapFilt" in report.headline([SCORES, SCORES, BETTER])
    assert report.headline([{"cider": 0.25}]) == "Without CapFilt, caption CIDEr is 25.0."
    assert report.headline([SCORES, BETTER]) in run[2]


def test_the_page_is_one_offline_file(run):
    _, root, page = run
    found = Links(page)
    assert found.links and all(link.startswith(("data:", "#")) for link in found.links)
    assert "http://" not in page and "https://" not in page
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert len(page) < 5_000_000
    assert str(root) not in re.sub(r"<details>.*</details>", "", page, flags=re.DOTALL)


def test_texts_are_escaped(run):
    assert EVIL not in run[2]
    assert run[2].count("&lt;script&gt;") > 10  # captions, synthetic texts, a setting


def test_figures_and_pictures_are_there(run):
    page = run[2]
    assert page.count("data:image/png;base64,") == 12 + 12
    assert page.count("<svg") == 2 + 4 + 1 + 3  # the filter's, and each stage's losses
    assert "AUC 0.9" in page and "chance 0.6365" in page
    assert "in error" in page and "✗ wrong" in page and "✓ right" in page


def test_examples_are_distinct_and_sorted_into_groups(run):
    sources, _, _ = run
    rows = [r for r in make_rows(sources) if r["status"] == "ok"]
    cards = [report.show_row(row, sources, 0.5) for row in rows]
    found = report.choose_examples(cards)
    assert sum(number for _, number, _ in found) == 59
    groups = {title: members for title, _, members in found}
    uids = [card["uid"] for members in groups.values() for card in members]
    assert len(uids) == len(set(uids)) == 12
    replaced = groups["Web text replaced"]
    assert all(not c["texts"][0]["kept"] and c["texts"][1]["kept"] for c in replaced)
    assert len({c["kind"] for c in replaced}) >= 4  # each kind in turn
    wrong = groups["Filter was wrong"]
    assert all(any(t["kept"] != t["true"] for t in c["texts"]) for c in wrong)
    assert report.choose_examples(cards[::-1]) == found


@pytest.mark.parametrize("known", ["nothing", "kinds alone"])
def test_real_photos_without_the_whole_truth(tmp_path, known):
    sources = make_sources(tmp_path)
    photo = tmp_path / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8)
    Image.fromarray(noise).save(photo)
    rows = [{"image": str(photo), "image_id": f"p{i}", "caption": [f"photo {i}"]} for i in range(3)]
    write_json(tmp_path / "val.json", rows)
    kinds = {r.image_id: {k: sources.truth[r.image_id][k] for k in ("kind", "true")}
             for r in sources.web[10:]}  # fmt: skip
    scores = {k: v for k, v in SCORES.items() if k != "caption_truth"}
    config = make_workdir(tmp_path, sources, [scores, scores])
    sources = dataclasses.replace(
        sources,
        val=read_json(tmp_path / "val.json"),
        truth=kinds if known == "kinds alone" else None,
    )
    folder = tmp_path / "round0" / "capfilt"
    facts = summary(make_rows(make_sources(tmp_path)), 0.5)
    write_json(folder / "summary.json", facts | truth_summary([], sources, 0.5))
    for number in (0, 1):
        path = tmp_path / f"round{number}" / "pretrain" / "evaluation.json"
        captions = ["a photo", "", "another"]
        write_json(path, {"scores": scores, "captions": captions})
    page = write_report(config, tmp_path, sources).read_text()
    assert page.count("data:image/jpeg") == 3  # shrunk, not as they are
    assert len(page) < 1_000_000
    assert "share of right captions" not in page and "✓ right" not in page
    assert ("AUC 0." in page) == (known == "kinds alone")


def test_a_lost_picture_is_named_so(tmp_path):
    write_text(tmp_path / "broken.png", "no picture")
    assert picture(tmp_path / "broken.png") is None
    assert picture(tmp_path / "missing.png") is None


def test_many_rounds_and_none(tmp_path):
    sources = make_sources(tmp_path)
    config = make_workdir(tmp_path, sources, [SCORES, SCORES, BETTER])
    page = write_report(config, tmp_path, sources).read_text()
    assert "What the filter did in round1" in page and "<th>Round 2</th>" in page
    config.rounds = 0
    page = write_report(config, tmp_path, sources).read_text()
    assert "Without CapFilt" in page and "What the filter did" not in page


def test_the_same_artefacts_give_the_same_page(run):
    sources, root, page = run
    config = ConfigDict(json.loads((root / "results.json").read_text())["config"])
    assert write_report(config, root, sources).read_text() == page
