"""What an import did to the tensors of a file, and what it hands over."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from blip_jax.config import BlipConfig
from blip_jax.interop.names import State
from blip_jax.models.blip import Params

_SHOWN = 3  # names of a list that are printed
_TOLD = 20  # things wrong with a file that an error names


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


def listed(problems: Iterable[str]) -> str:
    """'this is missing; that is unknown; and 600 more'."""
    found = list(problems)
    more = [f"and {len(found) - _TOLD} more"] if len(found) > _TOLD else []
    return "; ".join(found[:_TOLD] + more)


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model of another project: NumPy parameters, their config, and how they were read.

    `memory` is what training keeps beside the parameters (see `interop.memory`) and can go on
    with, None where the file has none. `unread` holds tensors of the file by their names there,
    that nothing here reads and an export returns.
    """

    params: Params
    config: BlipConfig
    memory: dict[str, Any] | None
    report: Report
    unread: State = dataclasses.field(default_factory=dict)

    @property
    def queue_size(self) -> int:
        """Length of the queues in `memory`, 0 without: the objective that goes on needs it."""
        return len(self.memory["queue"]["image_index"]) if self.memory else 0
