"""`blip-jax capfilt report`: report.json with every number, report.html to look at, offline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_jax.capfilt import figures, language
from blip_jax.capfilt.duplicates import Near, near_duplicates, same_bytes
from blip_jax.capfilt.nouns import noun_phrases
from blip_jax.capfilt.pictures import Sheets, Shown, choose_sheets
from blip_jax.capfilt.rule import PAPER_NOISE, PAPER_NOISE_SHARED, Rule, Texts, choose, distinct
from blip_jax.capfilt.sample import Row, Sample, read_sample
from blip_jax.capfilt.scored import ScoredRun
from blip_jax.capfilt.texts import read_texts
from blip_jax.data import storage
from blip_jax.files import Progress, silent
from blip_jax.page import page_template, picture

TEMPLATE = Path(__file__).parent / "report.html.j2"
FAR = 2.0  # a noise ratio is far off at twice or half the paper's
EXPLAINED, WORDS = 6, 2  # borderline texts shown with heatmaps, and nouns of each
Explain = Callable[[Image.Image | Path | str | bytes, str, str | None], Image.Image]


def write_report(
    run: ScoredRun,
    *,
    price: float | None = None,
    explain: Explain | None = None,
    progress: Progress = silent,
) -> str:
    """Writes report.json and report.html into the run's folder.

    The page is one file without scripts or links: figures are SVG, pictures data URIs. Scores are
    counted over all rows; what needs the words themselves is measured on an even sample.

    Args:
      price: of an hour of what one process ran on, in dollars.
      explain: (image, text, word or None for all words) -> the image under its heatmap.

    Returns:
      The address of report.html.

    Raises:
      ValueError: a damaged file of the run.
    """
    texts, _ = read_texts([run], progress=progress)
    sample = read_sample(run)
    results = measure(run, texts, sample, price)
    near = near_duplicates(run)
    results["duplicates"]["near"] = asdict(near) if near else None
    sheets = choose_sheets(run)
    page = page_template(TEMPLATE).render(
        results=results,
        figures=draw_figures(results, texts, run.threshold),
        pairs=name_pairs(run, near),
        sheets=show_sheets(sheets),
        explained=show_explained(sheets, explain) if explain else [],
        trouble=sheets.trouble,
        shards=sheets.shards,
    )
    for name, content in (("report.json", json.dumps(results, indent=1)), ("report.html", page)):
        storage.write_bytes(storage.join(run.place, name), (content + "\n").encode())
    return storage.join(run.place, "report.html")


def measure(run: ScoredRun, texts: Texts, sample: Sample, price: float | None) -> dict[str, Any]:
    """All numbers of the report but the near-duplicates."""
    kept = choose(texts, Rule(threshold=run.threshold))
    every = [text for row in sample.rows for text in row.texts]
    groups = {
        "web": [t.text for t in every if not t.synthetic],
        "web, kept": [t.text for t in every if not t.synthetic and t.kept],
        "synthetic": [t.text for t in every if t.synthetic],
        "synthetic, kept": [t.text for t in every if t.synthetic and t.kept],
    }
    methods = Counter(text.method for text in every if text.synthetic)
    results: dict[str, Any] = {
        "threshold": run.threshold,
        "shards": {"done": len(run.names), "missing": len(run.missing)},
        "images": len(texts.source),
        "status": dict(sample.status.most_common()),
        "kept": kept_images(texts, kept),
        "sources": {
            name: kept_images(texts, kept, texts.source == number)
            for number, name in enumerate(texts.sources)
        },
        "noise": noise(texts, kept, methods.most_common(1)[0][0] if methods else ""),
        "sample": {"rows": len(sample.rows), "step": sample.step},
        "texts": {name: language.describe_texts(group) for name, group in groups.items()},
        "repeated": {
            name: language.most_repeated(groups[name]) for name in ("web", "synthetic")
        },
        "lost": language.names_and_numbers(sample.rows),
        "persons": {
            "web": language.persons([t for t in every if not t.synthetic]),
            "synthetic": language.persons([t for t in every if t.synthetic]),
        },
        "duplicates": same_bytes(texts.content),
        "speed": speed(run.markers, price),
        "settings": run.settings,
    }  # fmt: skip
    return results | {"alarms": alarms(results), "headline": headline(results["kept"])}


def kept_images(texts: Texts, kept: np.ndarray, rows: np.ndarray | None = None) -> dict[str, int]:
    """Images, and how many keep any text, a web text, a synthetic one; of some `rows` [R]."""
    mine = kept if rows is None else kept & rows[texts.image]
    return {
        "images": len(texts.source) if rows is None else int(rows.sum()),
        "any": distinct(texts.image[mine]),
        "web": distinct(texts.image[mine & ~texts.synthetic]),
        "synthetic": distinct(texts.image[mine & texts.synthetic]),
    }


def noise(texts: Texts, kept: np.ndarray, method: str) -> dict[str, Any]:
    """Shares of scored texts that the filter dropped, and the paper's for this decoding."""
    scored = ~np.isnan(texts.itm) & (texts.words > 0)
    found: dict[str, Any] = {"method": method, "paper": PAPER_NOISE.get(method)}
    for name, kind in (("web", ~texts.synthetic), ("synthetic", texts.synthetic)):
        total = int((scored & kind).sum())
        found[name] = float((scored & kind & ~kept).sum() / total) if total else None
    return found | {"paper_all": PAPER_NOISE, "paper_shared": PAPER_NOISE_SHARED}


def speed(markers: Sequence[dict[str, Any]], price: float | None) -> dict[str, Any] | None:
    """Images a second of one process, where its time went, and what a million images cost."""
    stages: Counter[str] = Counter()
    for marker in markers:
        stages.update(marker.get("seconds", {}))
    total = stages.pop("whole", 0.0)
    images = sum(int(marker["rows"]) for marker in markers)
    if not total:
        return None
    return {
        "images_per_second": images / total,
        "seconds": total,
        "shares": {name: seconds / total for name, seconds in stages.most_common()},
        "waiting": stages["decode"] / total,
        "price": price,
        "cost_per_million": None if price is None else price / 3600 * total / images * 1e6,
    }


def headline(kept: dict[str, int]) -> str:
    """What came of the images, in one sentence."""
    any_text, web, synthetic = (
        f"{100 * kept[key] / max(kept['images'], 1):.1f}%" for key in ("any", "web", "synthetic")
    )
    return (
        f"{any_text} of the images keep a text: {web} their web text, {synthetic} a synthetic one."
    )


def alarms(results: dict[str, Any]) -> list[str]:
    """What a person should look at before using the texts, a sentence each."""
    found = []
    missing, done = results["shards"]["missing"], results["shards"]["done"]
    if missing:
        found.append(
            f"{missing} of {missing + done} shards are not finished; nothing of them is counted."
        )
    share, paper = results["noise"]["synthetic"], results["noise"]["paper"]
    if share is not None and paper and not paper / FAR <= share <= paper * FAR:
        found.append(
            f"The filter drops {share:.1%} of the synthetic texts; the paper's dropped {paper:.0%} "
            f"({results['noise']['method']}). Far more or less is often a filter that was not "
            "fine-tuned, texts that do not begin with [ENC], or images of another normalisation."
        )
    lost = results["images"] - results["status"].get("ok", 0)
    if lost > 0.1 * results["images"]:
        found.append(f"{lost} of {results['images']} rows gave no scores; see their status below.")
    repeated, total = results["repeated"]["synthetic"], results["texts"]["synthetic"]["texts"]
    if repeated and repeated[0][1] > max(0.01 * total, 20):
        text, times = repeated[0]
        found.append(f"One caption is {times / total:.1%} of all that were written: “{text}”.")
    if results["speed"] and results["speed"]["waiting"] > 0.2:
        found.append(
            f"{results['speed']['waiting']:.0%} of the time was spent waiting for data; more "
            "processes that load would shorten the run."
        )
    return found


def draw_figures(results: dict[str, Any], texts: Texts, threshold: float) -> dict[str, Any]:
    """The SVG figures by name."""
    kinds = {"web": ~texts.synthetic, "synthetic": texts.synthetic}
    web, synthetic = (figures.score_bins(texts.itm[kind]) for kind in kinds.values())
    top = np.full(len(texts.source), np.nan, np.float32)
    np.fmax.at(top, texts.image, texts.itm)
    bins = {"web texts": web, "synthetic texts": synthetic, "images": figures.score_bins(top)}
    every = results["noise"]
    return {
        "scores": figures.histogram_figure(web, synthetic, threshold),
        "curve": figures.curve_figure(bins, threshold),
        "lengths": figures.length_figure(*(texts.words[kind] for kind in kinds.values())),
        "persons": {
            name: figures.person_figure(rows, 1 - every[name])
            for name, rows in results["persons"].items()
            if rows
        },
    }


def name_pairs(run: ScoredRun, near: Near | None) -> list[tuple[str, str, float]]:
    """The nearest pairs by the uids of their images."""
    ends = np.cumsum([int(marker["rows"]) for marker in run.markers])

    def uid(row: int) -> str:
        shard = int(np.searchsorted(ends, row, side="right"))
        name, start = run.names[shard], ends[shard] - int(run.markers[shard]["rows"])
        return f"{run.table(name, ['uid'])['uid'][row - start].as_py()}"

    return [(uid(a), uid(b), cosine) for a, b, cosine in near.pairs] if near else []


def show_sheets(sheets: Sheets) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Title, explanation and cards of each sheet."""
    titles = {
        "accepted": ("Accepted", "Drawn at random among images that keep a text."),
        "rejected": ("Rejected", "Drawn at random among images that keep none."),
        "borderline": ("Borderline", "Those with a text whose score is nearest to the threshold."),
    }
    return [
        (title, about, [show_card(shown) for shown in getattr(sheets, name)])
        for name, (title, about) in titles.items()
    ]


def show_card(shown: Shown) -> dict[str, Any]:
    """A row as the template shows it."""
    image = None if shown.image is None else picture(shown.image)
    return {"picture": image, "row": shown.row}


def show_explained(sheets: Sheets, explain: Explain) -> list[dict[str, Any]]:
    """Borderline texts with the parts of the image that they, and their nouns, were matched by."""
    found: list[dict[str, Any]] = []
    for shown in sheets.borderline:
        if shown.image is None or len(found) == EXPLAINED:
            continue
        text = nearest(shown.row)
        words = [phrase.split()[-1] for phrase in noun_phrases(text.text)][:WORDS]
        maps = []
        for word in (None, *words):
            try:
                maps.append((word or "all words", picture(explain(shown.image, text.text, word))))
            except ValueError:  # an unreadable image, or a word past the text's length
                continue
        found.append({"text": text, "maps": maps})
    return found


def nearest(row: Row) -> Any:
    """The text whose decision was closest: the kept one with the lowest score, or the best."""
    kept = [text for text in row.texts if text.kept]
    return min(kept, key=lambda t: t.itm) if kept else max(row.texts, key=lambda t: t.itm)
