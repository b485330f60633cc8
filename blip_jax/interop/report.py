"""What an import did to the tensors of a file, and what it hands over."""

import dataclasses
from typing import Any

from blip_jax.config import BlipConfig
from blip_jax.models.blip import Params

_SHOWN = 3  # names of a list that are printed


@dataclasses.dataclass
class Report:
    """Tensors that did not simply go from one place to another, by their names in the file."""

    tied: list[str] = dataclasses.field(default_factory=list)  # copies, stored once here
    split: list[str] = dataclasses.field(default_factory=list)  # one there, several here
    resized: list[str] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)
    initialised: list[str] = dataclasses.field(default_factory=list)  # not in the file

    def __str__(self) -> str:
        lines = [
            line(field.name, getattr(self, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name)
        ]
        return "\n".join(lines) or "every tensor went to one place, as it was"


def line(title: str, names: list[str]) -> str:
    """'tied 12: a, b, c and 9 more'."""
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{title} {len(names)}: {shown}{more}"


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model of another project: NumPy parameters, their config, and how they were read.

    `memory` is what training keeps beside the parameters (see `interop.memory`), None where the
    file has none.
    """

    params: Params
    config: BlipConfig
    memory: dict[str, Any] | None
    report: Report
