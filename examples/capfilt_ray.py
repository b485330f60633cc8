"""CapFilt over a corpus on Ray Data: every row is a shard, and one actor does it whole.

    python examples/capfilt_ray.py CORPUS OUT CAPTIONER FILTER

A shard that is done is passed over, so a task that Ray runs again costs nothing, and the results
are those of `blip-jax capfilt run`, byte for byte on as many devices a process.
"""

import sys
from typing import Any

import ray

from blip_jax.capfilt.run import Run, Settings
from blip_jax.capfilt.score import CapFiltOptions
from blip_jax.data.corpus import open_corpus
from blip_jax.inference.caption import CaptionOptions


class DoShard:
    """The name of a shard -> the rows and samples of its marker."""

    def __init__(self, corpus: str, out: str, settings: Settings):
        self.run = Run(open_corpus(corpus), out, settings)
        self.shards = {shard.name: shard for shard in self.run.corpus.shards}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        marker = self.run.do(self.shards[row["name"]])
        return {key: marker[key] for key in ("name", "rows", "samples")}


def capfilt(corpus: str, out: str, settings: Settings, actors: int = 1, gpus: float = 0) -> None:
    """Runs the shards on so many actors of so many GPUs, and writes what is about all shards."""
    run = Run(open_corpus(corpus), out, settings)
    names = [{"name": shard.name} for shard in run.corpus.shards]
    arguments = {"corpus": corpus, "out": out, "settings": settings}
    done = ray.data.from_items(names).map(
        DoShard, fn_constructor_kwargs=arguments, concurrency=actors, num_gpus=gpus
    )
    done.materialize()
    run.finish()


if __name__ == "__main__":
    corpus, out, captioner, matcher = sys.argv[1:]
    options = CapFiltOptions(CaptionOptions(method="nucleus"))
    capfilt(corpus, out, Settings(captioner, matcher, options))
