"""The files of an evaluation: results.json, the submissions, index.html."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from ml_collections import ConfigDict

from blip_jax.evaluate.published import Published
from blip_jax.evaluate.scores import Line, lines, main_lines, name_of
from blip_jax.files import write_json, write_text
from blip_jax.page import COLOURS, INK, new_figure, page_template, picture, svg
from blip_jax.tasks.evaluation import Evaluation, Example

SHOWN = 8  # examples of each kind
PICTURES = 4  # of an example
TALLEST = 12  # scores in the figure


def write_evaluation(
    evaluation: Evaluation,
    config: ConfigDict,
    checkpoint: str,
    paper: Sequence[Published],
    out: Path,
) -> Path:
    """Writes all files to the folder `out`; returns the page, which is written last.

    The page is one file without scripts or links: figures are SVG, pictures data URIs.
    """
    found = lines(evaluation, paper)
    results = {
        "task": config.task,
        "checkpoint": checkpoint,
        "count": evaluation.count,
        "scores": {
            line.key: {"value": line.score.value, "low": line.score.low, "high": line.score.high}
            for line in found
        },
        "paper": [
            {"table": p.table, "model": p.model, "data": p.data, "scores": p.scores} for p in paper
        ],
        "skipped": evaluation.skipped,
        "missing": evaluation.missing,
        "submissions": list(evaluation.submissions),
        "config": config.to_dict(),
    }
    write_json(out / "results.json", results)
    for name, value in evaluation.submissions.items():
        (write_text if isinstance(value, str) else write_json)(out / name, value)
    page = page_template(Path(__file__).with_name("evaluation.html.j2")).render(
        results=results,
        title=title(results, found),
        lines=found,
        main=main_lines(found),
        paper=paper,
        missing=[(name_of(key), why) for key, why in evaluation.missing.items()],
        forest=forest_figure(found),
        histogram=histogram_figure(evaluation.examples) if found else None,
        groups=[(name, [card(e) for e in group]) for name, group in chosen(evaluation)],
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def title(results: dict[str, Any], found: Sequence[Line]) -> str:
    """ "caption: CIDEr 78.86 over 1,000 examples" """
    if not found:
        return f"{results['task']}: nothing to compare with"
    task, best = results["task"].replace("_", " "), main_lines(found)[0]
    return f"{task}: {best.name} {best.value} over {results['count']:,} examples"


def chosen(evaluation: Evaluation) -> list[tuple[str, list[Example]]]:
    """The best, the worst and random others; without scores the random ones alone."""
    examples = evaluation.examples
    worth = np.nan_to_num([e.value for e in examples], nan=-np.inf)
    order = np.argsort(-worth, kind="stable").tolist()
    each = min(SHOWN, len(order) // 3) if evaluation.scores else 0
    best, worst, rest = order[:each], order[::-1][:each], order[each : len(order) - each]
    rest = random.Random(0).sample(rest, min(SHOWN, len(rest)))
    groups = {"The best": best, "The worst": worst, "Random": rest}
    return [(name, [examples[i] for i in group]) for name, group in groups.items() if group]


def card(example: Example) -> dict[str, Any]:
    """What the page shows of an example."""
    pictures = [picture(image) for image in example.images[:PICTURES]]
    return {"pictures": pictures, "lines": example.lines, "value": example.value}


def forest_figure(found: Sequence[Line]) -> Markup | None:
    """Scores with their intervals, and ticks where the paper's models are."""
    rows = [line for line in found if line.factor == 100][:TALLEST]
    if not rows:
        return None
    figure, axes = new_figure(4.8, 0.6 + 0.28 * len(rows))
    for y, line in enumerate(rows):
        score = line.score
        if score.low is not None and score.high is not None:
            ends = [100 * score.low, 100 * score.high]
            axes.plot(ends, [y, y], color=COLOURS[1], lw=5, alpha=0.35, solid_capstyle="round")
        axes.plot(100 * score.value, y, "o", color=COLOURS[1], ms=5)
        theirs = [p for p in line.paper if p is not None]
        axes.plot(theirs, [y] * len(theirs), "|", color=COLOURS[3], ms=11, mew=2)
    axes.set_yticks(range(len(rows)), [line.name for line in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, None))
    axes.grid(axis="y", visible=False)
    return svg(figure)


def histogram_figure(examples: Sequence[Example]) -> Markup | None:
    """How the examples' values are spread."""
    values = [100 * e.value for e in examples if np.isfinite(e.value)]
    if not values:
        return None
    figure, axes = new_figure(4.8, 2.8)
    axes.hist(values, bins=25, color=COLOURS[1], alpha=0.7)
    axes.axvline(float(np.median(values)), color=INK, lw=1, ls="--")
    axes.set(xlabel="value of an example, times 100 (dashed: the median)", ylabel="examples")
    return svg(figure)
