"""The stages of the loop in order, each a finished artefact on disk.

A stage whose artefact is there is not done again; a run that was killed carries on where it was.

    workdir/
      config.json                     what the run was asked to do; another config is refused
      world/ or web.json, tokenizer/  what it learns from
      round0/pretrain/                metrics, checkpoints, model/, evaluation.json
      round0/captioner/, filter/      metrics, checkpoints, model/
      round0/capfilt/                 scores, summary.json, bootstrapped.json
      round1/pretrain/ ...
      results.json, report.html
"""

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from blip_jax.bootstrap.report import write_report
from blip_jax.bootstrap.sources import Sources, open_sources, open_tokenizer
from blip_jax.capfilt.chunks import score_records
from blip_jax.capfilt.score import CapFiltOptions
from blip_jax.capfilt.select import select, summary
from blip_jax.config import BlipConfig
from blip_jax.data.records import Records, read_json
from blip_jax.files import Progress, write_json
from blip_jax.metrics.classification import precision_recall_at, roc_auc
from blip_jax.model import CaptionOptions, Model
from blip_jax.models.blip import Blip
from blip_jax.tasks import caption, retrieval
from blip_jax.tokenizer import Tokenizer
from blip_jax.train.folder import RunFolder
from blip_jax.train.loop import Run
from blip_jax.train.state import Task
from blip_jax.training import Start, claim, fit, initial, make_task, model_config

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Loop:
    """What every stage needs."""

    config: ConfigDict
    workdir: Path
    sources: Sources
    tokenizer: Tokenizer
    model_config: BlipConfig

    def stage(
        self,
        name: str,
        settings: ConfigDict,
        task: Task,
        records: Records,
        start: Callable[[], Start],
    ) -> Model:
        """Trains one model of the loop, or opens it where it is already finished."""
        run = Run(RunFolder(str(self.workdir / name)), name, settings)
        return fit(run, task, records, self.tokenizer, self.model_config, start)

    def initial(self) -> Start:
        """Where pre-training starts."""
        return initial(self.model_config, self.config.seed, self.config.init)

    def pretrain(self, name: str, records: Records) -> Model:
        """Pre-training of one round, from scratch: the paper's Table 13 found no better start."""
        settings = self.config.pretrain
        task = self.task("pretrain", settings)
        return self.stage(f"{name}/pretrain", settings, task, records, self.initial)

    def captioner(self, name: str, base: Model) -> Model:
        """LM on the clean set."""
        settings, clean = self.config.captioner, self.sources.clean
        task = self.task("caption", settings)
        return self.stage(f"{name}/captioner", settings, task, clean, lambda: Start(base.params))

    def filter(self, name: str, base: Model) -> Model:
        """ITC + ITM on the clean set, apart from the captioner (paper Table 4)."""
        settings, clean = self.config.filter, self.sources.clean
        task = self.task("retrieval", settings)
        return self.stage(f"{name}/filter", settings, task, clean, lambda: Start(base.params))

    def task(self, name: str, settings: ConfigDict) -> Task:
        """The objective of a stage."""
        return make_task(name, Blip(self.model_config), settings)

    def score(self, name: str, captioner: Model, matcher: Model) -> list[dict[str, Any]]:
        """CapFilt's passes over the whole web set."""
        settings = self.config.capfilt
        options = CapFiltOptions(
            caption=CaptionOptions(**settings.caption.to_dict()),
            seed=self.config.seed,
            max_tokens=self.config.pretrain.data.max_tokens,
            batch_size=settings.batch_size,
        )
        folder = self.workdir / name / "capfilt"
        with bar(f"{name}/capfilt", "image") as progress:
            rows = score_records(self.sources.web, captioner, matcher, folder, options, progress)
        facts = summary(rows, settings.threshold) | truth_summary(
            rows, self.sources, settings.threshold
        )
        write_json(folder / "summary.json", facts)
        return rows

    def bootstrapped(self, name: str, rows: list[dict[str, Any]], **choice: bool) -> Records:
        """The texts that stay, as a BLIP JSON list on disk, joined with the clean set."""
        path = self.workdir / name / "capfilt" / "bootstrapped.json"
        kept = select(rows, threshold=self.config.capfilt.threshold, **choice)
        if not kept:
            raise RuntimeError(
                f"the filter of {name} kept no text at all: it has learnt nothing yet; "
                "train it longer, or lower capfilt.threshold"
            )
        for row in kept:
            row["image"] = os.path.relpath(row["image"], path.parent)
        write_json(path, kept)
        return read_json(path) + self.sources.clean

    def evaluate(self, name: str, model: Model) -> dict[str, Any]:
        """A pre-trained model on the held-out split; kept beside it."""
        path = self.workdir / name / "pretrain" / "evaluation.json"
        if path.exists():
            return json.loads(path.read_text())
        settings, val = self.config.evaluate, self.sources.val
        options = CaptionOptions(**settings.caption.to_dict())
        with bar(f"{name}/evaluate captions", "image") as progress:
            scores, captions = caption.evaluate(model, val, options, settings.batch_size, progress)
        with bar(f"{name}/evaluate retrieval", "pair") as progress:
            scores |= retrieval.evaluate(
                model,
                val,
                max_tokens=self.config.pretrain.data.max_tokens,
                top_k=settings.top_k,
                batch_size=settings.batch_size,
                progress=progress,
            )
        judged = [self.sources.is_true(r.image_id, c) for r, c in zip(val, captions, strict=True)]
        if None not in judged:
            scores["caption_truth"] = mean(judged)
        evaluation = {"scores": scores, "captions": captions}
        write_json(path, evaluation)
        return evaluation


class bar:
    """A progress bar that follows (done, total) calls."""

    def __init__(self, name: str, unit: str) -> None:
        self._bar = tqdm(desc=name, unit=unit, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self._update

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _update(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)


def truth_summary(rows: list[dict[str, Any]], sources: Sources, threshold: float) -> dict[str, Any]:
    """What the filter and the captioner were worth, where the truth is known.

    `caught` is the share under the threshold by kind of text; the `true_share`s are the shares of
    right texts among the web texts, the synthetic ones, and all that were kept.
    """
    facts_of = sources.truth or {}
    known = [r for r in rows if r["status"] == "ok" and r["image_id"] in facts_of]
    if not known:
        return {}
    truth = [facts_of[r["image_id"]] for r in known]
    labels, scores = [t["true"] for t in truth], [r["web_itm"] for r in known]
    precision, recall = precision_recall_at(scores, labels, threshold)
    kinds = sorted({t["kind"] for t in truth})
    caught = {
        kind: mean(s < threshold for s, t in zip(scores, truth, strict=True) if t["kind"] == kind)
        for kind in kinds
    }
    facts = {
        "auc": roc_auc(scores, labels) if len(set(labels)) == 2 else None,
        "precision": precision,
        "recall": recall,
        "caught": caught,
        "web_true_share": mean(labels),
    }
    judged = [
        (sources.is_true(r["image_id"], text), itm)
        for r in known
        for text, itm in zip(r["syn_text"], r["syn_itm"], strict=True)
    ]
    if all(true is not None for true, _ in judged):
        kept = [t for t, s in zip(labels, scores, strict=True) if s >= threshold]
        kept += [true for true, itm in judged if itm >= threshold]
        facts["synthetic_true_share"] = mean(true for true, _ in judged)
        facts["kept_true_share"] = mean(kept)
    return facts


def mean(values: Any) -> float:
    """Mean of any iterable of numbers, 0 of none."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def open_loop(config: ConfigDict, workdir: Path) -> Loop:
    """Claims the workdir for the config and gets data and tokenizer ready.

    Raises:
      ValueError: the workdir belongs to another config; the differing keys are named.
    """
    claim(config, workdir, write=True)
    with bar("data", "image") as progress:
        sources = open_sources(config, workdir, progress)
    tokenizer = open_tokenizer(config, sources, workdir)
    config_of_model = model_config(config.model, tokenizer)
    return Loop(config, workdir, sources, tokenizer, config_of_model)


def bootstrap(config: ConfigDict, workdir: Path) -> Path:
    """Runs every stage that is not done yet; returns the path of the report."""
    workdir = Path(workdir).absolute()
    loop = open_loop(config, workdir)
    records = loop.sources.web + loop.sources.clean
    for number in range(config.rounds + 1):
        name = f"round{number}"
        model = loop.pretrain(name, records)
        loop.evaluate(name, model)
        if number < config.rounds:
            rows = loop.score(name, loop.captioner(name, model), loop.filter(name, model))
            records = loop.bootstrapped(name, rows)
    return write_report(config, workdir, loop.sources)
