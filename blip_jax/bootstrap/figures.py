"""The figures of the report."""

from collections.abc import Sequence

from markupsafe import Markup

from blip_jax.metrics.classification import roc, roc_auc
from blip_jax.page import COLOURS, INK, legend_above, new_figure, svg


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
    legend_above(axes, columns=3)
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
