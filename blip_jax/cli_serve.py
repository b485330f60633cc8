"""The command that serves models over HTTP."""

import dataclasses
import importlib.util
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from blip_jax.cli_flags import Flags

LOCAL = ("127.0.0.1", "localhost", "::1")
TOKEN = "BLIP_JAX_TOKEN"
PACKAGES = ("fastapi", "multipart", "prometheus_client", "uvicorn")
MEBIBYTE = 1 << 20


def run(argv: list[str]) -> None:
    """Loads the models and serves them until SIGTERM.

    Raises:
      ValueError: flags that do not fit, or a package that is missing.
      RuntimeError, OSError: see `blip_jax.serve.server.run`.
    """
    values = define_flags()
    rest = values(["blip-jax serve", *argv])[1:]
    if rest:
        raise ValueError(f"unexpected argument {rest[0]!r}")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"serve needs {', '.join(missing)}: pip install 'blip-jax[serve]'")
    token = read_token(values.token_file)
    if token is None and values.host not in LOCAL:
        raise ValueError(
            f"--host {values.host} can be reached by others, so a token is needed: in a file "
            f"(--token_file) or in {TOKEN}"
        )
    serve(values, token)


def serve(values: Any, token: str | None) -> None:
    """The service of checked flags."""
    import jax

    import blip_jax
    from blip_jax.serve import server
    from blip_jax.serve.app import build_app
    from blip_jax.serve.fetch import Fetcher
    from blip_jax.serve.limits import Limits
    from blip_jax.serve.service import Service

    # There are many small programs; all of them are kept for the next start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    logger = logging.getLogger("blip_jax.serve")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    limits = dataclasses.replace(
        Limits(),
        max_batch=values.max_batch,
        max_wait=values.max_wait_ms / 1000,
        rows=values.max_queue,
        request=values.timeout,
        cache=values.cache_mb * MEBIBYTE,
    )
    named = name_models(values.model)
    models = {}
    for name, source in named.items():
        logger.info("loading %s from %s", name, source)
        models[name] = blip_jax.load(source).for_inference()
    fetcher = Fetcher(values.fetch_from, limits.picture) if values.fetch_from else None
    service = Service(models, limits, fetcher)
    if token is None:
        logger.warning("no token: whoever uses this machine may ask")
    hosts = LOCAL if token is None else None
    server.run(build_app(service, token, hosts), service, values.host, values.port)


def define_flags() -> flags.FlagValues:
    """Those of serve."""
    values = Flags()
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_multi_string(
        "model", None, "M or NAME=M; may be given several times", required=True, **own
    )
    flags.DEFINE_string("host", "127.0.0.1", "address to listen at", **own)
    flags.DEFINE_integer("port", 8000, "0 takes a free one", **own, lower_bound=0)
    flags.DEFINE_string("token_file", None, f"file of the bearer token; or {TOKEN}", **own)
    flags.DEFINE_multi_string(
        "fetch_from", [], "host that pictures may be fetched from; several times", **own
    )
    flags.DEFINE_integer("max_batch", 8, "rows of a batch", **own, lower_bound=1)
    flags.DEFINE_float("max_wait_ms", 4, "for a batch to fill up", **own, lower_bound=0)
    flags.DEFINE_integer("max_queue", 256, "rows accepted at once", **own, lower_bound=1)
    flags.DEFINE_float("timeout", 30, "seconds a request may take", **own, lower_bound=0.1)
    flags.DEFINE_integer("cache_mb", 256, "MiB of image tokens kept", **own, lower_bound=0)
    return values


def name_models(given: Sequence[str]) -> dict[str, str]:
    """Name -> source; a source without a name goes by the end of its path.

    Raises:
      ValueError: two of a name.
    """
    named: dict[str, str] = {}
    for text in given:
        match = re.fullmatch(r"([\w.-]+)=(.+)", text)
        name, source = match.groups() if match else (Path(text).stem or text, text)
        if name in named:
            raise ValueError(f"two models are called {name}; name them: --model NAME={source}")
        named[name] = source
    return named


def read_token(file: str | None) -> str | None:
    """The token of a file, or of the environment; None where there is neither.

    Raises:
      ValueError: it is shorter than 16 characters, or has other than printable ASCII.
    """
    text = os.environ.get(TOKEN) if file is None else Path(file).read_text(encoding="utf-8")
    if text is None:
        return None
    token = text.strip()
    if len(token) < 16 or not all("!" <= c <= "~" for c in token):
        where = file or TOKEN
        raise ValueError(f"the token in {where} is not 16 or more printable ASCII characters")
    return token
