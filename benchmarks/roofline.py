"""Where the passes lie under a machine's roof, by measurement or by the compiler of a TPU.

    python benchmarks/speed.py --out speed.json
    python benchmarks/roofline.py speed.json --out roofline.svg
    python benchmarks/roofline.py v5e:2x2 --rows 48 --out roofline_v5e.svg

A pass does so many operations for each byte that its matrix products read and write (every
operand and every result once). Under the slanted part of the roof the memory is what limits it,
under the flat part the arithmetic. What `speed.py` measured on a machine, CPU or GPU, lies under
the rates that it measured there. For a TPU the passes of `configs/pretrain.py` are compiled (with
`libtpu`; no chip is needed), and lie where the compiler expects them.
"""

import argparse
import dataclasses
import json
import math
import re
import runpy
from pathlib import Path

from matplotlib.ticker import EngFormatter

from blip_jax.compiling import compile_programs
from blip_jax.page import COLOURS, new_figure
from blip_jax.train.ahead import chip_of

CONFIG = Path(__file__).resolve().parents[1] / "configs/pretrain.py"
INK = "#6b7280"  # read on light and on dark ground


@dataclasses.dataclass(frozen=True)
class Pass:
    """A point: operations, bytes of the matrix products, and the time they take with all else."""

    name: str
    flops: float
    moved: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Roof:
    """FLOP/s and bytes/s that a machine has at most."""

    name: str
    peak: float
    bandwidth: float


def measured(path: Path) -> tuple[Roof, list[Pass]]:
    """The rows of speed.py, and the machine's own rates."""
    found = json.loads(path.read_text())
    machine = found["machine"]
    name = f"{found['device']}, {found['cores']} cores, {found['dtype']}"
    roof = Roof(name, 1e9 * machine["gflops"], 1e9 * machine["gbytes"])
    passes = []
    for row in found["results"]:
        size = (found | row)["image_size"]  # a row's own, where runs were put together
        flops = 1e9 * row["gflop"]
        seconds = row["gflop"] / row["gflops"]
        passes.append(Pass(f"{row['row']}, {size}", flops, 1e9 * row["gbyte"], seconds))
    return roof, passes


def expected(topology: str, rows: int) -> tuple[Roof, list[Pass]]:
    """The programs of ViT-B with so many rows a chip, by the compiler of a TPU."""
    chips = math.prod(int(n) for n in re.findall(r"\d+", topology.partition(":")[2]))
    config = runpy.run_path(str(CONFIG))["get_config"]("vit_b")
    config.run.batch_size = rows * chips
    chip = chip_of(topology)
    points = [
        Pass(p.name, p.flops, p.moved, chip.seconds(p.cycles))
        for p in compile_programs(config, topology)
        if p.cycles  # 0 where the compiler does not say
    ]
    if not points:
        raise SystemExit(f"the compiler of {topology} says of no pass how long it takes")
    return Roof(f"TPU {topology.partition(':')[0]}, bfloat16", chip.peak, chip.bandwidth), points


def drawn(roof: Roof, passes: list[Pass], path: Path) -> None:
    """An SVG with logarithmic axes."""
    figure, axes = new_figure(8, 3.6)
    at = [p.flops / p.moved for p in passes]
    rates = [p.flops / p.seconds for p in passes]
    ridge = roof.peak / roof.bandwidth
    ends = min(*at, ridge) / 3, max(*at, ridge) * 3
    line = [ends[0] * roof.bandwidth, roof.peak, roof.peak]
    axes.plot([ends[0], ridge, ends[1]], line, color=INK)
    for i, (p, x, y) in enumerate(zip(passes, at, rates, strict=True)):
        share = y / min(roof.peak, x * roof.bandwidth)
        style = {"marker": "osD^vPX*h"[i % 9], "color": COLOURS[1 + i % (len(COLOURS) - 1)]}
        axes.plot(x, y, ms=7, ls="", label=f"{p.name}: {100 * share:.0f} % of the roof", **style)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=(min(rates) / 2, 2 * roof.peak))
    axes.yaxis.set_major_formatter(EngFormatter("FLOP/s"))
    axes.minorticks_off()
    axes.set_xlabel("operations a byte of the matrix products", color=INK)
    axes.set_title(roof.name, color=INK, size=10)
    axes.tick_params(colors=INK)
    place = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, **place)
    figure.savefig(path, format="svg", metadata={"Date": None}, transparent=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="what speed.py wrote, or a TPU topology such as v5e:2x2")
    parser.add_argument("--rows", type=int, default=48, help="a chip, of a topology")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    of_file = args.source.endswith(".json")
    roof, passes = measured(Path(args.source)) if of_file else expected(args.source, args.rows)
    drawn(roof, passes, args.out)
    for p in passes:
        print(
            f"{p.name}: {p.flops / p.moved:.0f} FLOP/byte, {p.flops / p.seconds / 1e12:.3g} TFLOP/s"
        )


if __name__ == "__main__":
    main()
