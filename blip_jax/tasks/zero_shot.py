"""Zero-shot classification: the class whose texts are nearest (as CLIP does, arXiv 2103.00020).

A class is the mean of the unit vectors of its name in every template, made a unit vector again.
ITM may rank the nearest classes again, by the name in the first template.
"""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from blip_jax.data.annotations import read_labelled
from blip_jax.data.text import read_lines
from blip_jax.files import Progress, silent
from blip_jax.inference.embed import embed_texts
from blip_jax.inference.match import among_best
from blip_jax.inference.pixels import Pixels
from blip_jax.inference.trained import Trained
from blip_jax.metrics.retrieval import reciprocal_ranks
from blip_jax.model import Model
from blip_jax.tasks.evaluation import Evaluation, Example, Score, score
from blip_jax.tasks.search import Gallery, Ranking, Texts, match_score, match_wanted, rank_items

TEMPLATES = ("a photo of a {}.",)


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Finds the class of every image.

    Args:
      config: annotations and image_root, as `read_labelled` takes them; classes, a file of names,
        one a line; templates, a file of texts with {} for the name, or "" for one plain text;
        batch_size; top_k, the classes that ITM ranks again, or 0.

    Returns:
      top1, top5, and class_mean, the mean over classes of their top1; the submission
      per_class.json has each class's own. An equal score counts against the right class.

    Raises:
      ValueError: no list of images with labels, labels that are no classes, templates without
        {}, images of which none can be opened.
    """
    model.need("match" if config.top_k else "embed")
    names = read_lines(config.classes)
    templates = read_templates(config.templates)
    rows = read_labelled(config.annotations, config.image_root or None)
    numbers = {name: number for number, name in enumerate(names)}
    if missing := sorted({row.label for row in rows} - numbers.keys()):
        raise ValueError(f"{config.annotations}: label {missing[0]!r} is not in {config.classes}")
    model = model.on_every_device()
    pixels = Pixels([row.image for row in rows], model.config.vision.image_size)
    gallery = Gallery.open(model, pixels, config.batch_size)
    kept = [rows[number] for number in gallery.numbers]
    labels = np.array([numbers[row.label] for row in kept])
    found = classify(model, gallery, names, templates, labels, config, progress)

    right = found.rank == 0
    of_class = {names[n]: float(right[labels == n].mean()) for n in np.unique(labels)}
    scores = {
        "top1": score(right),
        "top5": score(found.rank < 5),
        "class_mean": Score(float(np.mean(list(of_class.values())))),
    }
    examples = [
        Example((row.image,), (("truth", row.label), ("prediction", names[first])), float(value))
        for row, first, value in zip(kept, found.first, reciprocal_ranks(found.rank), strict=True)
    ]
    lost = len(rows) - len(kept)
    return Evaluation(
        scores,
        len(kept),
        examples,
        submissions={"per_class.json": of_class},
        skipped={"unreadable_image": lost} if lost else {},
    )


def classify(
    model: Trained,
    gallery: Gallery,
    names: Sequence[str],
    templates: Sequence[str],
    labels: np.ndarray,
    config: ConfigDict,
    progress: Progress,
) -> Ranking:
    """The classes ranked for every image, of which `labels` [N] are right."""
    cosine = gallery.embeds @ class_vectors(model, names, templates, 4 * config.batch_size).T
    classes = np.arange(len(names))
    if not config.top_k:
        return rank_items(cosine, labels, classes)
    own = [[templates[0].replace("{}", name)] for name in names]
    texts = Texts.encode(model, own, model.config.text.max_positions, 4 * config.batch_size)
    wanted = among_best(cosine, config.top_k)
    logits = match_wanted(model, gallery, texts, wanted, config.batch_size, progress)
    return rank_items(cosine, labels, classes, match_score(logits, cosine), wanted)


def class_vectors(
    model: Trained, names: Sequence[str], templates: Sequence[str], batch_size: int
) -> np.ndarray:
    """Unit vectors [C, E] of the classes: the direction of the mean over the templates."""
    texts = [template.replace("{}", name) for name in names for template in templates]
    vectors = embed_texts(model, texts, batch_size).reshape(len(names), len(templates), -1)
    mean = vectors.mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def read_templates(path: str) -> Sequence[str]:
    """A file's lines, or `TEMPLATES` where there is no path; ValueError for one without {}."""
    templates = read_lines(path) if path else TEMPLATES
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"{path}: template {template!r} has no {{}} where the name goes")
    return templates
