"""The paper's Table 1 in small: does CapFilt help, and which half of it?

    python benchmarks/bootstrap.py --workdir runs/table1 --seeds 3

For each seed a world is drawn and four models are pre-trained in it, for as many steps and from
the same start: on the noisy texts; on those the filter keeps; on them and all synthetic ones; on
what the filter keeps of both. Restartable; prints the table and writes results.json.
"""

import argparse
import json
import runpy
from pathlib import Path

import numpy as np

from blip_jax.bootstrap.stages import open_loop
from blip_jax.cli import compilation_cache
from blip_jax.files import write_json

ROWS = {  # name -> which texts
    "none": None,
    "filter": {"captions": False, "filtering": True},
    "captioner": {"captions": True, "filtering": False},
    "both": {"captions": True, "filtering": True},
}
COLUMNS = ("cider", "bleu4", "caption_truth", "itc_tr_r1", "itc_ir_r1", "itm_tr_r1", "itm_ir_r1")
CONFIG = Path(__file__).parents[1] / "configs/demo.py"


def run_seed(seed: int, workdir: Path, variant: str) -> dict[str, dict[str, float]]:
    """The four rows for one seed: name -> scores."""
    config = runpy.run_path(str(CONFIG))["get_config"](variant)
    config.seed = config.world.seed = seed
    for stage in ("pretrain", "captioner", "filter"):
        config[stage].seed = seed
    loop = open_loop(config, workdir.absolute())
    base = loop.pretrain("none", loop.sources.web + loop.sources.clean)
    rows = loop.score("none", loop.captioner("none", base), loop.filter("none", base))
    results = {}
    for name, choice in ROWS.items():
        model = base
        if choice:
            model = loop.pretrain(name, loop.bootstrapped(name, rows, **choice))
        results[name] = loop.evaluate(name, model)["scores"]
    return results


def table(results: list[dict[str, dict[str, float]]]) -> str:
    """Mean and standard deviation over seeds, in percent (CIDEr x 100), as Markdown."""
    lines = [
        "| texts | " + " | ".join(COLUMNS) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for name in ROWS:
        cells = []
        for column in COLUMNS:
            values = [100 * seed[name][column] for seed in results]
            cells.append(
                f"{np.mean(values):.1f} ± {np.std(values, ddof=min(1, len(values) - 1)):.1f}"
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gain(results: list[dict[str, dict[str, float]]], column: str) -> str:
    """How much "both" is above "none", world by world, and whether that exceeds the spread.

    The rows of a world share its start and its data, so the gains have a spread of their own.
    """
    gains = [100 * (seed["both"][column] - seed["none"][column]) for seed in results]
    spread = max(
        np.std([100 * seed[name][column] for seed in results], ddof=min(1, len(results) - 1))
        for name in ("none", "both")
    )
    verdict = "more" if np.mean(gains) > spread else "not more"
    each = ", ".join(f"{g:+.1f}" for g in gains)
    own = np.std(gains, ddof=min(1, len(gains) - 1))
    return (
        f"{column}: {np.mean(gains):+.1f} ± {own:.1f} ({each}), "
        f"{verdict} than the spread of the rows {spread:.1f}"
    )


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
        print(table(results), *(gain(results, c) for c in COLUMNS), sep="\n", flush=True)
        summary = arguments.workdir / f"seed{seed}/none/capfilt/summary.json"
        print(json.dumps(json.loads(summary.read_text())), flush=True)


if __name__ == "__main__":
    main()
