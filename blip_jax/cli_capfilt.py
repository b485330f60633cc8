"""The commands of CapFilt over corpora."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from absl import flags

from blip_jax.cli_capfilt_filter import run_filter, run_report
from blip_jax.cli_flags import Flags, subcommand
from blip_jax.errors import Stopped


def run(argv: list[str]) -> None:
    """blip-jax capfilt run|filter|report ...

    Raises:
      ValueError, FileNotFoundError: the user's mistake.
      RuntimeError, OSError: the job failed.
      Stopped: SIGTERM came.
    """
    commands = {"run": run_run, "filter": run_filter, "report": run_report}
    subcommand("capfilt", commands, argv)


def run_run(argv: list[str]) -> None:
    """blip-jax capfilt run CORPUS OUT --captioner M --filter M."""
    values = Flags()
    values.set_gnu_getopt()  # flags may follow paths
    _define_run(values)
    paths = values(["blip-jax capfilt run", *argv])[1:]
    if len(paths) != 2:
        raise ValueError(f"capfilt run takes CORPUS and OUT; got {len(paths)} paths")
    place, out = paths
    from tqdm import tqdm

    from blip_jax.capfilt.run import Run
    from blip_jax.capfilt.share import Leases, share
    from blip_jax.data import storage
    from blip_jax.data.corpus import open_corpus
    from blip_jax.train.hosts import StopSignal

    reading = {name: getattr(values, name) for name in ("image_root", "image", "caption")}
    corpus = open_corpus(place, **reading)
    index, count = share(values.shard) if values.shard else (0, 1)
    if values.lease and storage.is_remote(out):
        raise ValueError("--lease needs a folder on a disk; in a bucket, share with --shard")
    job = Run(corpus, out, _settings(values, reading))
    shards = corpus.shards[index::count]
    with (
        StopSignal() as signal,
        tqdm(total=len(shards), unit="shard", disable=None) as bar,
        Leases(Path(out, ".leases"), values.lease) if values.lease else nullcontext() as leases,
    ):

        def stop() -> None:
            if signal.came_by(0):
                raise Stopped(f"{out}: whole shards are kept")

        for _ in job.work(shards, stop, leases):
            bar.update()
    if not job.finish():
        print(f"{len(shards)} shards are done, others are not yet: {out}", file=sys.stderr)
        return
    status = job.status()
    rows = ", ".join(f"{count:,} {name}" for name, count in status.most_common())
    if not status["ok"]:
        raise RuntimeError(f"{out}: no row could be used ({rows}); is --image_root right?")
    print(f"all {len(corpus.shards)} shards are done ({rows}): {out}/README.md")


def _define_run(values: flags.FlagValues) -> None:
    def text(name: str, default: str | None, told: str, **more: Any) -> None:
        flags.DEFINE_string(name, default, told, flag_values=values, **more)

    def whole(name: str, default: int | None, told: str, least: int = 1) -> None:
        flags.DEFINE_integer(name, default, told, flag_values=values, lower_bound=least)

    def real(name: str, default: float, told: str) -> None:
        flags.DEFINE_float(name, default, told, flag_values=values)

    text("captioner", None, "model that writes: whatever blip_jax.load opens", required=True)
    text("filter", None, "model that scores", required=True)
    formats = ["webdataset", "parquet", "json", "array_record"]
    flags.DEFINE_enum("to", None, formats, "format of the data; as it came in by default",
                      flag_values=values)  # fmt: skip
    methods = ["nucleus", "beam", "greedy"]
    flags.DEFINE_enum("method", "nucleus", methods, "decoding", flag_values=values)
    real("top_p", 0.9, "of nucleus sampling")
    whole("num_beams", 3, "of beam search")
    whole("num_captions", 1, "captions an image")
    whole("max_new_tokens", 24, "of a caption, the end included")
    told = "top-k 50 and repetition penalty 1.1, which the released code's sampling has hidden"
    flags.DEFINE_bool("as_released", False, told, flag_values=values)
    real("threshold", 0.5, "ITM probability of a kept text")
    whole("seed", 0, "captions are drawn from it and the uid", 0)
    whole("batch_size", 64, "images of a compiled batch, which the devices share")
    whole("max_tokens", 35, "of a scored text")
    whole("image_size", None, "pixels that both models see; as they were trained by default")
    told = "one vision tower: the captioner reads the image tokens of the filter"
    flags.DEFINE_bool("shared_tower", False, told, flag_values=values)
    text("shard", None, "do the i-th of N parts: i/N; auto or auto/N asks Slurm, Kubernetes, Sky")
    real("lease", 0, "share with any other process; seconds until a dead one's shard is free")
    text("image_root", None, "folder of the images that rows name, or of img2dataset's downloads")
    text("image", None, "the image column, if not a usual name")
    text("caption", None, "the text column, if not a usual name")


def _settings(values: flags.FlagValues, reading: dict[str, str | None]) -> Any:
    from blip_jax.capfilt.run import Settings
    from blip_jax.capfilt.score import CapFiltOptions
    from blip_jax.inference.caption import CaptionOptions

    def chosen(*names: str) -> dict[str, Any]:
        return {name: getattr(values, name) for name in names}

    hidden: dict[str, Any] = {"top_k": 50, "repetition_penalty": 1.1} if values.as_released else {}
    how = chosen("method", "top_p", "num_beams", "num_captions", "max_new_tokens")
    options = CapFiltOptions(
        CaptionOptions(**how, **hidden),
        **chosen("seed", "max_tokens", "batch_size", "shared_tower"),
    )
    models = (values.captioner, values.filter)
    return Settings(*models, options, **chosen("threshold", "to", "image_size"), reading=reading)
