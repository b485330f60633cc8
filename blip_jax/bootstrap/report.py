"""The report of a run: results.json with every number, report.html to look at, offline."""

import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup
from ml_collections import ConfigDict

from blip_jax.bootstrap.figures import histogram_figure, loss_figure, roc_figure
from blip_jax.bootstrap.sources import Sources
from blip_jax.data.records import Records
from blip_jax.files import read_json_lines, write_json, write_text
from blip_jax.losses import ITM_CHANCE
from blip_jax.page import page_template, picture
from blip_jax.train.metrics import read_metrics

PAPER_NOISE = {"nucleus": 0.25, "beam": 0.19}  # share of synthetic texts dropped, paper Table 2
STAGES = {"pretrain": "Pre-training", "captioner": "Captioner", "filter": "Filter"}
LOSSES = {"loss": "total", "loss_itc": "ITC", "loss_itm": "ITM", "loss_lm": "LM"}
SCORES = {  # key of evaluation.json -> how it is named
    "cider": "Captions: CIDEr",
    "bleu4": "Captions: BLEU-4",
    "caption_truth": "Captions: share that is right",
    "itc_tr_r1": "ITC: image to text, recall@1",
    "itc_ir_r1": "ITC: text to image, recall@1",
    "itc_r_mean": "ITC: mean recall@1, 5, 10",
    "itm_tr_r1": "ITM re-ranked: image to text, recall@1",
    "itm_ir_r1": "ITM re-ranked: text to image, recall@1",
    "itm_r_mean": "ITM re-ranked: mean recall@1, 5, 10",
    "match_auc": "ITM, right or wrong text: AUC",
    "match_accuracy": "ITM, right or wrong text: accuracy",
}
HEADLINE = {
    "cider": ("caption CIDEr", ""),
    "itm_tr_r1": ("image-to-text recall@1", "%"),
    "caption_truth": ("the share of right captions", "%"),
}
OUTCOMES = {  # of a picture in CapFilt -> examples shown
    "Web text replaced": 4,
    "Web text kept": 2,
    "Both texts dropped": 2,
    "Filter was wrong": 4,
}
EXAMPLES = sum(OUTCOMES.values())
TEMPLATE = Path(__file__).parent / "report.html.j2"

Row = dict[str, Any]
Card = dict[str, Any]  # what the template shows of a picture
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Pass:
    """CapFilt's artefacts of one round."""

    name: str
    rows: list[Row]  # of `score_records`
    summary: dict[str, Any]


def write_report(config: ConfigDict, workdir: Path, sources: Sources) -> Path:
    """Writes workdir/results.json and workdir/report.html from the artefacts of a finished run.

    The page is one file without scripts or links: figures are SVG, pictures data URIs.

    Args:
      config: of the run; `rounds` and `capfilt.threshold` are read, all of it is shown.
      workdir: laid out as in `bootstrap/stages.py`.
      sources: what the run learnt from. Without truth, the parts that need it are left out.

    Returns:
      The path of report.html.

    Raises:
      FileNotFoundError: a stage has not finished.
    """
    names = [f"round{n}" for n in range(config.rounds + 1)]
    evaluations = [
        json.loads((workdir / name / "pretrain" / "evaluation.json").read_text()) for name in names
    ]
    passes = [read_pass(workdir / name / "capfilt", name) for name in names[:-1]]
    curves = {
        f"{name}/{stage}": read_metrics(workdir / name / stage)
        for name in names
        for stage in STAGES
    }
    scores = [e["scores"] for e in evaluations]
    results = {
        "headline": headline(scores),
        "rounds": dict(zip(names, scores, strict=True)),
        "change": {k: scores[-1][k] - v for k, v in scores[0].items() if k in scores[-1]},
        "chance_recall_at_1": 1 / len(sources.val),
        "capfilt": {p.name: p.summary for p in passes},
        "paper_noise": PAPER_NOISE,
        "data": {k: count(getattr(sources, k)) for k in ("web", "clean", "val")},
        "last_step": {name: rows[-1] for name, rows in curves.items() if rows},
        "config": config.to_dict(),
    }
    write_json(workdir / "results.json", results)
    threshold = config.capfilt.threshold
    page = page_template(TEMPLATE).render(
        results=results,
        names=[round_name(n, config.rounds) for n in range(config.rounds + 1)],
        cards=[c for key in HEADLINE if (c := change_of(key, scores))],
        table=[c for key in SCORES if (c := change_of(key, scores))],
        margin=1.96 * math.sqrt(0.25 / len(sources.val)),
        threshold=threshold,
        passes=[show_pass(p, sources, threshold) for p in passes],
        captions=show_captions([e["captions"] for e in evaluations], sources),
        losses=[figure for stage in STAGES for figure in loss_figures(stage, curves)],
    )
    path = workdir / "report.html"
    write_text(path, page)
    return path


def read_pass(folder: Path, name: str) -> Pass:
    """The scores and the summary in a folder of CapFilt."""
    chunks = sorted(folder.glob("[0-9]*.jsonl"))
    rows = [row for chunk in chunks for row in read_json_lines(chunk)]
    return Pass(name, rows, json.loads((folder / "summary.json").read_text()))


def count(records: Records) -> dict[str, Any]:
    """How many rows, texts and images there are, and what was left out."""
    return {
        "rows": len(records),
        "texts": sum(len(r.captions) for r in records),
        "images": len({r.image_id for r in records}),
        "skipped": dict(records.skipped),
        "skipped_examples": list(records.examples),
    }


def round_name(number: int, rounds: int) -> str:
    """The head of a round's column."""
    if rounds == 1:
        return ("Before CapFilt", "After CapFilt")[number]
    return f"Round {number}"


def headline(scores: Sequence[dict[str, float]]) -> str:
    """What changed from the first round to the last, for better or worse, in one sentence."""
    clauses = []
    for key, (noun, unit) in HEADLINE.items():
        if key in scores[0] and key in scores[-1]:
            first, last = (f"{100 * s[key]:.1f}" for s in (scores[0], scores[-1]))
            clauses.append(f"{noun} {moved(float(first), float(last), unit)}")
    if len(scores) == 1:
        now = (f"{noun} is {100 * scores[0][k]:.1f}{u}" for k, (noun, u) in HEADLINE.items()
               if k in scores[0])  # fmt: skip
        return f"Without CapFilt, {listed(list(now))}."
    rounds = "CapFilt" if len(scores) == 2 else f"{len(scores) - 1} rounds of CapFilt"
    return f"After {rounds}, {listed(clauses)}."


def moved(first: float, last: float, unit: str) -> str:
    """ "rose from 1.0% to 2.0%" """
    if first == last:
        return f"stayed at {last}{unit}"
    return f"{'rose' if last > first else 'fell'} from {first}{unit} to {last}{unit}"


def listed(parts: list[str]) -> str:
    """ "a, b and c" """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def change_of(key: str, scores: Sequence[dict[str, float]]) -> dict[str, Any] | None:
    """One score over the rounds, times 100, and the last less the first; None where unknown."""
    if any(key not in s for s in scores):
        return None
    values = [100 * s[key] for s in scores]
    return {"key": key, "name": SCORES[key], "values": values, "change": values[-1] - values[0]}


def show_pass(found: Pass, sources: Sources, threshold: float) -> dict[str, Any]:
    """What the template shows of a round of CapFilt."""
    rows = [row for row in found.rows if row["status"] == "ok"]
    known = [row for row in rows if row["image_id"] in (sources.truth or {})]
    labels = [sources.truth[row["image_id"]]["true"] for row in known] if sources.truth else []
    web, synthetic = [r["web_itm"] for r in rows], [itm for r in rows for itm in r["syn_itm"]]
    outcomes = choose_examples([show_row(row, sources, threshold) for row in rows])
    return {
        "name": found.name,
        "summary": found.summary,
        "roc": roc_figure([row["web_itm"] for row in known], labels),
        "histogram": histogram_figure(web, synthetic, threshold),
        "outcomes": [(title, number / len(rows)) for title, number, _ in outcomes],
        "examples": [
            card | {"outcome": title, "picture": picture(Path(card["image"]))}
            for title, _, cards in outcomes
            for card in cards
        ],
    }


def show_row(row: Row, sources: Sources, threshold: float) -> Card:
    """A row as a card: its texts, the filter's decisions, and whether they were right."""
    truth = (sources.truth or {}).get(row["image_id"], {})

    def text(source: str, words: str, itm: float, true: bool | None) -> dict[str, Any]:
        kept = itm >= threshold
        wrong = true is not None and kept != true
        return {
            "source": source, "text": words, "itm": itm, "kept": kept, "true": true, "wrong": wrong
        }  # fmt: skip

    texts = [text("web", row["web_text"], row["web_itm"], truth.get("true"))]
    for words, itm in zip(row["syn_text"], row["syn_itm"], strict=True):
        texts.append(text("synthetic", words, itm, judge(sources, row["image_id"], words)))
    kind = truth.get("kind")
    return {"uid": row["uid"], "image": row["image"], "kind": kind, "texts": texts}


def judge(sources: Sources, image_id: str, text: str) -> bool | None:
    """Whether a text is right; None where nothing is known of the image."""
    if sources.truth is None or image_id not in sources.truth:
        return None
    return sources.is_true(image_id, text)


def choose_examples(cards: list[Card]) -> list[tuple[str, int, list[Card]]]:
    """What came of the pictures: title, number of pictures, and a few of them, for each outcome.

    They are drawn by a hash of the uid, each kind of noise in turn. Places that an outcome cannot
    fill go to the others.
    """
    groups: dict[str, list[Card]] = {title: [] for title in OUTCOMES}
    for card in shuffled(cards, lambda c: c["uid"]):
        groups[outcome(card)].append(card)
    sizes = {title: min(OUTCOMES[title], len(members)) for title, members in groups.items()}
    for title, members in groups.items():
        sizes[title] += min(EXAMPLES - sum(sizes.values()), len(members) - sizes[title])
    return [
        (title, len(members), in_turn(members, lambda c: c["kind"])[: sizes[title]])
        for title, members in groups.items()
        if members
    ]


def outcome(card: Card) -> str:
    """The key of `OUTCOMES` that a picture belongs to."""
    web, *synthetic = card["texts"]
    replaced, kept, dropped, wrong = OUTCOMES
    if any(text["wrong"] for text in card["texts"]):
        return wrong
    if web["kept"]:
        return kept
    return replaced if any(text["kept"] for text in synthetic) else dropped


def shuffled(items: Iterable[Item], uid: Callable[[Item], str]) -> list[Item]:
    """The same order on every machine, unrelated to the order of the file."""
    return sorted(items, key=lambda item: (zlib.crc32(uid(item).encode()), uid(item)))


def in_turn(items: Iterable[Item], kind: Callable[[Item], str | None]) -> list[Item]:
    """One item of each kind, then the next of each, and so on."""
    seen: dict[str | None, int] = {}
    ranked = []
    for item in items:
        seen[kind(item)] = seen.get(kind(item), 0) + 1
        ranked.append((seen[kind(item)], item))
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])]


def show_captions(captions: list[list[str]], sources: Sources) -> list[Card]:
    """Held-out pictures with what the first and the last model wrote, and one reference."""
    first, last = captions[0], captions[-1]
    rows = shuffled(zip(sources.val, first, last, strict=True), lambda row: row[0].uid)
    return [
        {
            "picture": picture(record.image),
            "reference": record.captions[0],
            "texts": [(t, judge(sources, record.image_id, t)) for t in texts[: len(captions)]],
        }
        for record, *texts in rows[:EXAMPLES]
    ]


def loss_figures(stage: str, curves: dict[str, list[Row]]) -> list[tuple[str, Markup]]:
    """One figure a loss of a stage, with a line a round. A total of one loss is not repeated."""
    runs = {n.split("/")[0]: r for n, r in curves.items() if r and n.endswith(f"/{stage}")}
    names = [key for key in LOSSES if any(key in row for rows in runs.values() for row in rows)]
    if len(names) == 2:
        names.remove("loss")
    figures = []
    for key in names:
        lines = {
            name.replace("round", "round "): [(r["step"], r[key]) for r in rows if key in r]
            for name, rows in runs.items()
        }
        chance = ITM_CHANCE if key == "loss_itm" else None
        figures.append((f"{STAGES[stage]}: {LOSSES[key]}", loss_figure(lines, chance)))
    return figures
