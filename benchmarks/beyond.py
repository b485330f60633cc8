"""Beyond the paper: do best-of-n, a check of nouns, and a second round beat plain CapFilt?

    python benchmarks/beyond.py --workdir runs/beyond --seeds 3
    python benchmarks/beyond.py --workdir runs/beyond_smoke --seeds 1 --variant smoke

For each seed a world is drawn, a captioner and a filter are made in it, and every web image gets
four captions with scores. From these each row of the table takes its texts (plain CapFilt's, its
web texts or its captions alone, all four captions, the best, those whose nouns hold), and a model
is pre-trained on them, all from the same start and for as many steps. Two rounds take twice the
training. Beside them, how well the two rounds' filters, and both together, tell right web texts
from wrong ones. Restartable; prints the tables, the gains over plain CapFilt and writes
results.json.
"""

import argparse
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from blip_jax.bootstrap.stages import Loop, open_loop, truth_summary
from blip_jax.capfilt.nouns import noun_phrases
from blip_jax.cli import compilation_cache
from blip_jax.files import write_json
from blip_jax.model import Model

CAPTIONS = 4
CONFIG = Path(__file__).parents[1] / "configs/demo.py"
COLUMNS = (
    "kept_synthetic", "kept_right", "cider", "caption_truth", "itc_tr_r1", "itc_ir_r1",
    "itm_tr_r1", "itm_ir_r1",
)  # fmt: skip
LISTS = ("syn_text", "syn_log_prob", "syn_itm", "syn_itc")

Rows = list[dict[str, Any]]


def only(row: dict[str, Any], numbers: list[int]) -> dict[str, Any]:
    """A row with some of its captions."""
    if row["status"] != "ok":
        return row
    return row | {key: [row[key][i] for i in numbers] for key in LISTS}


def plain(rows: Rows) -> Rows:
    """The paper's: one caption an image."""
    return [only(row, [0]) for row in rows]


def web_alone(rows: Rows) -> Rows:
    """No caption at all: one end of mixing web and synthetic texts."""
    return [only(row, []) for row in rows]


def synthetic_alone(rows: Rows) -> Rows:
    """One caption an image and no web text: the other end."""
    return [row | {"web_itm": 0.0} if row["status"] == "ok" else row for row in plain(rows)]


def best_of_n(rows: Rows) -> Rows:
    """Of four captions the one with the highest ITM."""
    return [only(row, [int(np.argmax(row.get("syn_itm", [0])))]) for row in rows]


def checked_nouns(rows: Rows, matcher: Model, threshold: float) -> Rows:
    """One caption an image, if the filter finds every noun phrase of it in the image."""
    rows = plain(rows)
    asked = [
        (number, phrase)
        for number, row in enumerate(rows)
        for text in row.get("syn_text", [])
        for phrase in noun_phrases(text)
    ]
    images = [rows[number]["image"] for number, _ in asked]
    scores = matcher.match(images, [phrase for _, phrase in asked], batch_size=64)
    lacking = {n for (n, _), score in zip(asked, scores, strict=True) if score.itm < threshold}
    return [only(row, []) if n in lacking else row for n, row in enumerate(rows)]


def ensemble(*judged: Rows) -> Rows:
    """Rows whose web texts are scored by the mean of several filters."""
    return [
        rows[0] | {"web_itm": float(np.mean([row.get("web_itm", 0.0) for row in rows]))}
        for rows in zip(*judged, strict=True)
    ]


def run_seed(seed: int, workdir: Path, variant: str) -> dict[str, dict[str, dict[str, float]]]:
    """The rows of the tables for one seed: name -> scores, of texts and of filters."""
    config = runpy.run_path(str(CONFIG))["get_config"](variant)
    config.seed = config.world.seed = seed
    config.capfilt.caption.num_captions = CAPTIONS
    for stage in ("pretrain", "captioner", "filter"):
        config[stage].seed = seed
    loop = open_loop(config, workdir.absolute())
    base = loop.pretrain("none", loop.sources.web + loop.sources.clean)
    matcher = loop.filter("none", base)
    rows = loop.score("none", loop.captioner("none", base), matcher)
    threshold = config.capfilt.threshold
    choices: dict[str, Callable[[], Rows]] = {
        "plain": lambda: plain(rows),
        "web alone": lambda: web_alone(rows),
        "synthetic alone": lambda: synthetic_alone(rows),
        "all four": lambda: rows,
        "best of four": lambda: best_of_n(rows),
        "nouns": lambda: checked_nouns(rows, matcher, threshold),
    }
    results = {}
    models = {}
    for name, choice in choices.items():
        models[name], results[name] = learn(loop, name.replace(" ", "_"), choice())
    again = loop.score(
        "second",
        loop.captioner("second", models["plain"]),
        loop.filter("second", models["plain"]),
    )
    _, results["two rounds"] = learn(loop, "two_rounds", plain(again))
    filters = {"first": rows, "second": again, "mean of both": ensemble(rows, again)}
    told = {name: truth_summary(kept, loop.sources, threshold) for name, kept in filters.items()}
    return {"texts": results, "filters": {name: {"auc": f["auc"]} for name, f in told.items()}}


def learn(loop: Loop, name: str, rows: Rows) -> tuple[Model, dict[str, float]]:
    """A model pre-trained on what the filter keeps of some rows, and its scores."""
    model = loop.pretrain(name, loop.bootstrapped(name, rows))
    threshold = loop.config.capfilt.threshold
    kept = [
        loop.sources.is_true(row["image_id"], text) is True
        for row in rows
        for text, itm in zip(row.get("syn_text", []), row.get("syn_itm", []), strict=True)
        if text and itm >= threshold
    ]
    facts = {
        "kept_synthetic": len(kept) / len(rows),
        "kept_right": sum(kept) / max(len(kept), 1),
    }
    return model, facts | loop.evaluate(name, model)["scores"]


def table(results: list[dict[str, dict[str, float]]]) -> str:
    """Mean and standard deviation over seeds, in percent, and the gain over plain world by world.

    The rows of a world share its start and its data: the gain of each world is what to look at.
    """
    lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    ddof = min(1, len(results) - 1)
    for name in results[0]:
        values = np.array([[100 * seed[name][c] for c in COLUMNS] for seed in results])
        mean, spread = values.mean(0), values.std(0, ddof=ddof)
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, spread, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in list(results[0])[1:]:
        gains = [
            ", ".join(f"{100 * (seed[name][c] - seed['plain'][c]):+.1f}" for seed in results)
            for c in COLUMNS
        ]
        lines.append(f"| {name} over plain | " + " | ".join(gains) + " |")
    return "\n".join(lines)


def filter_table(results: list[dict[str, dict[str, float]]]) -> str:
    """ROC AUC of each filter on the web texts, world by world."""
    lines = ["| filter | ROC AUC |", "| --- | ---: |"]
    for name in results[0]:
        values = ", ".join(f"{seed[name]['auc']:.4f}" for seed in results)
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="how many worlds")
    parser.add_argument("--variant", default="", help="of configs/demo.py")
    arguments = parser.parse_args()
    compilation_cache()
    results = []
    for seed in range(arguments.seeds):
        results.append(run_seed(seed, arguments.workdir / f"seed{seed}", arguments.variant))
        write_json(arguments.workdir / "results.json", results)
        print(table([seed["texts"] for seed in results]))
        print(filter_table([seed["filters"] for seed in results]), flush=True)


if __name__ == "__main__":
    main()
