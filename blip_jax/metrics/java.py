"""METEOR and SPICE: Java programs, run through the package pycocoevalcap where both are here."""

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blip_jax.metrics.bleu import Tokens

SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class NotComputed(Exception):
    """A metric that cannot be computed here; the message says why."""


def meteor(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[float, np.ndarray]:
    """METEOR 1.5 of a corpus, and of each image [N].

    Raises:
      NotComputed: Java or the package is not here.
    """
    package()
    from pycocoevalcap.meteor.meteor import Meteor

    whole, each = run(Meteor, candidates, references)
    return whole, np.asarray(each)


def spice(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """SPICE of each image [N]; a corpus's is their mean. Takes 8 GB and minutes.

    Raises:
      NotComputed: Java, the package or CoreNLP's models are not here.
    """
    folder = package() / "spice" / "lib"
    if absent := [name for name in SPICE_JARS if not (folder / name).is_file()]:
        raise NotComputed(
            f"{' and '.join(absent)} of Stanford CoreNLP 3.6.0 belong into {folder} (we download "
            "nothing)"
        )
    from pycocoevalcap.spice.spice import Spice

    _, each = run(Spice, candidates, references)
    return np.array([row["All"]["f"] for row in each])


def package() -> Path:
    """The folder of pycocoevalcap."""
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise NotComputed(
            "the package pycocoevalcap is not installed (pip install 'blip-jax[metrics]')"
        )
    if shutil.which("java") is None:
        raise NotComputed("java is not installed")
    return Path(next(iter(found.submodule_search_locations)))


def run(
    tool: Callable[[], Any], candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[float, Any]:
    """A tool's score and those of the images, whose names keep their order when sorted."""
    written = {f"{i:09d}": [" ".join(c)] for i, c in enumerate(candidates)}
    truth = {f"{i:09d}": [" ".join(r) for r in refs] for i, refs in enumerate(references)}
    try:
        return tool().compute_score(truth, written)
    except (
        OSError,
        ValueError,
        subprocess.SubprocessError,
    ) as error:  # the program died, or wrote something else
        raise NotComputed(f"the Java program failed: {error}") from error
