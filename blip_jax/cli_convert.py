"""The command that carries weights from one project to another: convert."""

import shutil
from pathlib import Path

from absl import flags

from blip_jax.cli_flags import Flags
from blip_jax.config import Task
from blip_jax.interop import source
from blip_jax.interop.huggingface import export_huggingface
from blip_jax.interop.salesforce import export_salesforce
from blip_jax.interop.torch_file import write_torch
from blip_jax.model import Model, save

FORMATS = ("blip_jax", "huggingface", "salesforce")


def run(argv: list[str]) -> None:
    """blip-jax convert SOURCE TARGET --to FORMAT; tells what became of the tensors.

    Raises:
      ValueError: not two paths, a target that exists, or weights that are no BLIP.
      FileNotFoundError: there is no such source.
    """
    values = Flags()
    values.set_gnu_getopt()  # flags may follow paths
    flags.DEFINE_enum("to", None, FORMATS, "whose format", flag_values=values, required=True)
    tasks = ["caption", "retrieval"]
    flags.DEFINE_enum(
        "task", "caption", tasks, "half of a pre-trained model for Hugging Face", flag_values=values
    )
    flags.DEFINE_integer("image_size", None, "pixels; as stored by default", 1, flag_values=values)
    flags.DEFINE_integer("vision_heads", None, "of a .pth, if not 64 wide", 1, flag_values=values)
    flags.DEFINE_integer("text_heads", None, "of a .pth, if not 64 wide", 1, flag_values=values)
    paths = values(["blip-jax convert", *argv])[1:]
    if len(paths) != 2:
        raise ValueError(f"convert takes SOURCE and TARGET; got {len(paths)} paths")
    target = Path(paths[1])
    if target.exists():
        raise ValueError(f"{target} is there already; expected a new file or folder")
    sizes = {k: getattr(values, k) for k in ("image_size", "vision_heads", "text_heads")}
    place = source.resolve(paths[0])
    found = source.load_source(place, **sizes)
    print(found.report)
    tokenizer = source.find_tokenizer(place)
    model = Model(found.params, source.with_tokenizer(found.config, tokenizer), tokenizer)
    if values.to == "blip_jax":
        save(model, target)
    elif values.to == "huggingface":
        write_huggingface(model, target, values.task)
    else:
        write_torch(
            export_salesforce(model.params, model.config, found.memory, found.unread), target
        )
    print(f"{values.to}: {target}")


def write_huggingface(model: Model, target: Path, task: Task) -> None:
    """A Hugging Face folder, all of it or nothing; `task` matters for a pre-trained model."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    export_huggingface(model.params, model.config, model.tokenizer, partial, task=task)
    partial.rename(target)
