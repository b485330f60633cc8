"""One file a task. What a module `blip_jax/tasks/NAME.py` gives, to be named by `config.task`:

    objective(blip, settings) -> Task               what is learnt; see `blip_jax.train.state`
    reader(tokenizer, model, data) -> Reader        how data becomes batches; see
                                                    `blip_jax.data.examples`
    evaluate(model, config, progress) -> Evaluation how good it is; see `tasks.evaluation`

`settings` is the config's `run` section, `model` the BlipConfig, `data` the `run.data` section,
and `config` the `evaluate` section. A module that is only trained leaves out `evaluate`, one that
only evaluates the two others. docs/tasks.md builds one.
"""

import importlib
import pkgutil
from types import ModuleType


def find_task(name: str) -> ModuleType:
    """The module of a task: blip_jax/tasks/NAME.py, or with a dot in it any that can be imported.

    Raises:
      ValueError: there is none of that name.
    """
    full = name if "." in name else f"{__name__}.{name}"
    try:
        return importlib.import_module(full)
    except ModuleNotFoundError as error:
        if not (error.name and f"{full}.".startswith(f"{error.name}.")):
            raise  # something that the module itself imports
        known = ", ".join(module.name for module in pkgutil.iter_modules(__path__))
        raise ValueError(
            f"config.task is {name!r}, but there is no module {full}; expected one of {known}, "
            "or the dotted name of a module that Python finds"
        ) from error


def trainable(name: str) -> ModuleType:
    """As `find_task`; ValueError if the module does not say how to train it."""
    module = find_task(name)
    if missing := [part for part in ("objective", "reader") if not hasattr(module, part)]:
        raise ValueError(f"config.task {name!r} cannot be trained: it has no {missing[0]}()")
    return module
