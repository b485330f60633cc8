"""CapFilt over a corpus on Apache Beam: every element is a shard, and one worker does it whole.

    python examples/capfilt_beam.py CORPUS OUT CAPTIONER FILTER [Beam's flags]

A shard that is done is passed over, so a bundle that Beam runs again costs nothing, and the
results are those of `blip-jax capfilt run`, byte for byte on as many devices a process.
"""

import sys
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from blip_jax.capfilt.run import Run, Settings
from blip_jax.capfilt.score import CapFiltOptions
from blip_jax.data.corpus import open_corpus
from blip_jax.inference.caption import CaptionOptions


class DoShard(beam.DoFn):
    """The name of a shard -> its marker."""

    def __init__(self, corpus: str, out: str, settings: Settings):
        self.where, self.settings = (corpus, out), settings

    def setup(self) -> None:
        """Opens the corpus once a worker; the models are opened by its first shard."""
        corpus, out = self.where
        self.run = Run(open_corpus(corpus), out, self.settings)
        self.shards = {shard.name: shard for shard in self.run.corpus.shards}

    def process(self, name: str) -> Iterator[dict[str, Any]]:
        yield self.run.do(self.shards[name])


def capfilt(corpus: str, out: str, settings: Settings, flags: list[str]) -> None:
    """Runs the pipeline, and writes what is about all shards."""
    run = Run(open_corpus(corpus), out, settings)
    names = [shard.name for shard in run.corpus.shards]
    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        (
            pipeline
            | beam.Create(names)
            | beam.Reshuffle()
            | beam.ParDo(DoShard(corpus, out, settings))
        )
    run.finish()


if __name__ == "__main__":
    corpus, out, captioner, matcher, *flags = sys.argv[1:]
    options = CapFiltOptions(CaptionOptions(method="nucleus"))
    capfilt(corpus, out, Settings(captioner, matcher, options), flags)
