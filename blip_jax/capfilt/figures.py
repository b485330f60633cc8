"""The figures of CapFilt's report."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from blip_jax.page import COLOURS, INK, legend_above, new_figure, svg

WEB, SYNTHETIC, IMAGES = COLOURS[3], COLOURS[1], COLOURS[2]
BINS = 200  # of a histogram of scores between 0 and 1
SHOWN = 40


def score_bins(scores: np.ndarray) -> np.ndarray:
    """int64 [BINS]: how many scores between 0 and 1 lie in each bin; NaN in none."""
    return np.histogram(scores[~np.isnan(scores)], BINS, (0.0, 1.0))[0]


def histogram_figure(web: np.ndarray, synthetic: np.ndarray, threshold: float) -> Markup:
    """How the ITM probabilities of web and of synthetic texts [BINS] are spread."""
    figure, axes = new_figure(5.2, 3.0)
    edges = np.linspace(0, 1, SHOWN + 1)
    for bins, name, colour in ((web, "web", WEB), (synthetic, "synthetic", SYNTHETIC)):
        share = 100 * bins.reshape(SHOWN, -1).sum(1) / max(bins.sum(), 1)
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.45, label=name)
        axes.stairs(share, edges, color=colour, lw=1.2)
    axes.axvline(threshold, color=INK, lw=1, ls="--", label=f"threshold {threshold:g}")
    axes.set(xlabel="ITM probability", ylabel="% of texts", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    legend_above(axes, 3)
    return svg(figure)


def curve_figure(bins: dict[str, np.ndarray], threshold: float) -> Markup:
    """What share would stay at every threshold: name -> bins [BINS] of the scores."""
    figure, axes = new_figure(5.2, 3.0)
    edges = np.linspace(0, 1, BINS + 1)
    colours = {"web texts": WEB, "synthetic texts": SYNTHETIC, "images": IMAGES}
    for name, counts in bins.items():
        above = np.append(np.cumsum(counts[::-1])[::-1], 0) / max(counts.sum(), 1)
        axes.plot(edges, 100 * above, color=colours[name], lw=1.8, label=name)
    axes.axvline(threshold, color=INK, lw=1, ls="--")
    axes.set(xlabel="threshold", ylabel="% kept", xlim=(0, 1), ylim=(0, 101))
    legend_above(axes, 3)
    return svg(figure)


def length_figure(web: np.ndarray, synthetic: np.ndarray) -> Markup:
    """Words of web and synthetic texts [N], up to 30."""
    figure, axes = new_figure(5.2, 3.0)
    edges = np.arange(0.5, 31.5)
    for words, name, colour in ((web, "web", WEB), (synthetic, "synthetic", SYNTHETIC)):
        counts = np.bincount(np.clip(words, 0, 30), minlength=31)[1:]
        share = 100 * counts / max(len(words), 1)
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.45, label=name)
        axes.stairs(share, edges, color=colour, lw=1.2)
    axes.set(xlabel="words (30: or more)", ylabel="% of texts", xlim=(0.5, 30.5))
    axes.set_ylim(bottom=0)
    legend_above(axes, 2)
    return svg(figure)


def person_figure(rows: list[dict[str, Any]], overall: float) -> Markup:
    """Keep rates with their intervals, a line a kind of person."""
    figure, axes = new_figure(5.2, 0.7 + 0.27 * len(rows))
    for place, row in enumerate(rows[::-1]):
        colour = WEB if row["apart"] else COLOURS[0]
        bounds = [100 * row["low"], 100 * row["high"]]
        axes.plot(bounds, [place, place], color=colour, lw=2.2, solid_capstyle="round")
        axes.plot([100 * row["rate"]], [place], "o", color=colour, ms=5)
    axes.axvline(100 * overall, color=INK, lw=1, ls="--")
    axes.set_yticks(range(len(rows)), [row["kind"] for row in rows[::-1]])
    axes.grid(axis="y", alpha=0)
    axes.set(xlabel="% kept (dashed: of all)", xlim=(0, 100), ylim=(-0.6, len(rows) - 0.4))
    return svg(figure)
