"""The figures of the report: SVG that takes the page's font and colour."""

import io
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from blip_jax.metrics.classification import roc, roc_auc

COLOURS = ("#8b95a7", "#2f7bf6", "#12a37f", "#e08a1e", "#b05cd6")
INK = "#010203"  # stands for the page's text colour


def roc_figure(scores: Sequence[float], labels: Sequence[bool]) -> Markup | None:
    """ROC of a score; None where all labels are the same."""
    if len(set(labels)) < 2:
        return None
    false, true, _ = roc(scores, labels)
    figure, axes = new_figure(4.2, 3.4)
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.35, lw=1, ls=":")
    axes.plot(false, true, color=COLOURS[1], lw=2)
    axes.fill_between(false, true, color=COLOURS[1], alpha=0.1, lw=0)
    axes.text(0.96, 0.06, f"AUC {roc_auc(scores, labels):.3f}", ha="right", size=13, color=INK)
    axes.set(xlabel="wrong texts kept", ylabel="right texts kept", xlim=(0, 1), ylim=(0, 1.01))
    return svg(figure)


def histogram_figure(web: list[float], synthetic: list[float], threshold: float) -> Markup:
    """How the ITM probabilities of web and of synthetic texts are spread."""
    figure, axes = new_figure(4.2, 3.4)
    for values, name, colour in ((web, "web", COLOURS[3]), (synthetic, "synthetic", COLOURS[1])):
        weights = [100 / len(values)] * len(values) if values else None
        style = {"color": colour, "alpha": 0.55, "label": name}
        axes.hist(values, bins=20, range=(0, 1), weights=weights, **style)
    axes.axvline(threshold, color=INK, lw=1, ls="--", label="threshold")
    axes.set(xlabel="ITM probability", ylabel="% of texts", xlim=(0, 1))
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="lower left",
                bbox_to_anchor=(-0.02, 1), ncols=3, columnspacing=1)  # fmt: skip
    return svg(figure)


def loss_figure(lines: dict[str, list[tuple[int, float]]], chance: float | None = None) -> Markup:
    """A loss over the steps: name of a line -> its (step, loss) points."""
    figure, axes = new_figure(2.7, 2.2)
    for i, (name, points) in enumerate(lines.items()):
        marker = "o" if len(points) == 1 else ""
        style = {"color": COLOURS[i % len(COLOURS)], "marker": marker, "ms": 4, "lw": 1.6}
        axes.plot(*zip(*points, strict=True), label=name, **style)
    if chance is not None:
        axes.axhline(chance, color=INK, lw=1, ls=":", label=f"chance {chance:.4f}")
    axes.set(xlabel="step")
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, handlelength=1.2)
    return svg(figure)


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of inches and its axes, in the page's text colour on a clear ground."""
    from matplotlib.figure import Figure  # slow to import, and only the report draws

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=INK, alpha=0.4)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.xaxis.label.set(color=INK, size=9)
    axes.yaxis.label.set(color=INK, size=9)
    axes.grid(color=INK, alpha=0.1, lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def svg(figure: Any) -> Markup:
    """A figure as an SVG element for a page: text stays text, in the page's font and colour."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "blip"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # HTML knows these names
    return Markup(re.sub(r'<svg width="[^"]*" height="[^"]*"', "<svg", text))
