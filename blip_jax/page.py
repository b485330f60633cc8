"""What the pages share: one file each, offline, with SVG figures and embedded pictures."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from blip_jax.data.images import ImageError, open_image

COLOURS = ("#8b95a7", "#2f7bf6", "#12a37f", "#e08a1e", "#b05cd6")
INK = "#010203"  # stands for the page's text colour
THUMBNAIL = 240  # pixels; smaller pictures are embedded as they are
PIXEL_ART = 64  # pictures up to this size are drawn world, shown with sharp pixels


def page_template(path: Path) -> jinja2.Template:
    """A template that may extend `page.html.j2` and import from `parts.html.j2`.

    Every text put into it is escaped; a name that is not given is an error.
    """
    shared = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, shared]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}%"
    environment.filters["signed"] = lambda value: f"{value:+.1f}".replace("-", "\u2212")
    environment.filters["count"] = lambda number: f"{number:,}".replace(",", "\u202f")
    return environment.get_template(path.name)


def picture(
    source: Path | str | bytes | Image.Image, size: int = THUMBNAIL
) -> dict[str, Any] | None:
    """An image as a data URI and whether its pixels are to stay sharp; None if unreadable."""
    try:
        image = open_image(source)
    except ImageError:
        return None
    buffer, sharp = io.BytesIO(), max(image.size) <= PIXEL_ART
    if sharp:
        image.save(buffer, "PNG")
    else:
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"uri": f"data:image/{'png' if sharp else 'jpeg'};base64,{data}", "sharp": sharp}


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of inches and its axes, in the page's text colour on a clear ground."""
    from matplotlib.figure import Figure  # slow to import, and only pages draw

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


def legend_above(axes: Any, columns: int) -> None:
    """The legend in a row over the axes, where it hides nothing."""
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="lower left",
                bbox_to_anchor=(-0.02, 1), ncols=columns, columnspacing=1)  # fmt: skip


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
