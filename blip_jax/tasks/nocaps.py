"""NoCaps: captions of objects that COCO does not show, judged by domain (the original's
`eval_nocaps.py`)."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from blip_jax.data.record import Record
from blip_jax.data.records import load_list
from blip_jax.data.rows import texts_of
from blip_jax.files import Progress, silent
from blip_jax.inference.caption import CaptionOptions
from blip_jax.model import Model
from blip_jax.tasks import caption
from blip_jax.tasks.evaluation import Evaluation, Example, Score

DOMAINS = {"in-domain": "in", "near-domain": "near", "out-domain": "out"}
NO_REFERENCES = (
    "the annotations have no captions to compare with; the server has them, and takes the "
    "submission"
)
NO_DOMAINS = 'the annotations do not say of which "domain" each image is'


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Captions every image; with references at hand, the scores of each domain and of all.

    `config`: `annotations` and `image_root` (see `read_images`), `batch_size`, and `caption`, the
    fields of `CaptionOptions`.

    Returns:
      Scores such as `in_cider`, `near_cider`, `out_cider`, `entire_cider`. Each set of references
      has document frequencies of its own.
    """
    records = read_images(config.annotations, config.image_root or None)
    options = CaptionOptions(**config.caption.to_dict())
    captions = caption.describe(model, records, options, config.batch_size, progress)
    if not any(record.captions for record in records):
        return unjudged(records, captions)
    whole = caption.judged(model, records, captions)
    scores, missing = named("entire", whole.scores), dict(whole.missing)
    seen = [(r, text) for r, text in zip(records, captions, strict=True) if text is not None]
    for domain, name in DOMAINS.items():
        part = [(text, r.captions) for r, text in seen if r.extra["domain"] == domain]
        if part:
            scores |= named(name, caption.compare_all(*zip(*part, strict=True))[0])
    if len(scores) == len(whole.scores):
        missing["in, near, out"] = NO_DOMAINS
    files = {"nocaps.json": whole.submissions["captions.json"]}
    return Evaluation(scores, whole.count, whole.examples, files, whole.skipped, missing)


def unjudged(records: Sequence[Record], captions: Sequence[str | None]) -> Evaluation:
    """The submission alone."""
    seen = [(r, text) for r, text in zip(records, captions, strict=True) if text is not None]
    lost = len(records) - len(seen)
    return Evaluation(
        scores={},
        count=0,
        examples=[Example((r.image,), (("caption", text),), 0.0) for r, text in seen],
        submissions={"nocaps.json": caption.submission(seen)},
        skipped={"unreadable_image": lost} if lost else {},
        missing={"cider, spice": NO_REFERENCES},
    )


def named(domain: str, scores: dict[str, Score]) -> dict[str, Score]:
    """Scores under the name of a domain."""
    return {f"{domain}_{name}": value for name, value in scores.items()}


def read_images(path: str | Path, image_root: str | Path | None = None) -> list[Record]:
    """Reads `[{"image", "img_id": number, "caption"?: text or texts, "domain"?}, ...]`.

    Every row has captions or none has. Images that are missing are found when they are read.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a list, or an empty one; the row and field are named.
    """
    root = Path(path).parent if image_root is None else Path(image_root)
    records: list[Record] = []
    for number, row in enumerate(load_list(path)):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected an object.")
        if not isinstance(row.get("image"), str):
            raise ValueError(f'{where}: field "image" must be a string.')
        if not isinstance(row.get("img_id"), int):
            raise ValueError(f'{where}: field "img_id" must be a number.')
        texts = texts_of(row.get("caption", ()))
        if texts is None:
            raise ValueError(f'{where}: field "caption" must be a string or a list of strings.')
        if bool(texts) != bool(records[0].captions if records else texts):
            raise ValueError(f'{where}: field "caption" must be in every row or in none.')
        domain = row.get("domain")
        if domain is not None and domain not in DOMAINS:
            raise ValueError(f'{where}: field "domain" must be one of {", ".join(DOMAINS)}.')
        image_id = str(row["img_id"])
        records.append(Record(image_id, root / row["image"], texts, image_id, {"domain": domain}))
    if not records:
        raise ValueError(f"{path} holds no image to caption.")
    return records
