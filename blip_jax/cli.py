"""One console script, `blip-jax`.

Exit codes: 0 done, 1 the job failed, 2 the user's mistake, 42 stopped by SIGTERM after saving.
"""

import difflib
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from blip_jax.cli_flags import HELP, Flags, HelpAsked
from blip_jax.errors import Stopped

USAGE = """usage: blip-jax COMMAND [flags]; COMMAND --help names its flags

  bootstrap --config FILE.py[:VARIANT] --workdir DIR [--config.key=value ...]
      pre-train, fine-tune captioner and filter, CapFilt, pre-train again; ends in report.html
  train --config FILE.py[:VARIANT] --workdir DIR [--config.key=value ...]
      one run of training, on every device of every process there is
  evaluate --config FILE.py[:VARIANT] --checkpoint M [--out DIR] [--config.evaluate.key=value ...]
      a model's scores on a task beside the paper's: a table, results.json, files for the task's
      server, and a page, in DIR ("evaluation")
  compile --config FILE.py[:VARIANT] [--topology VERSION:SHAPE] [--config.key=value ...]
      the train step and the passes of inference for a TPU slice that is not here (v5e:16x16; needs
      the package libtpu), or for the devices that are: memory, FLOPs, collectives, the compiler's
      own estimate
  goodput DIR
      where the time of a run in DIR went, over all its launches
  caption --model M IMAGE... [--method=beam|nucleus|greedy] [--prompt=TEXT] [--num_captions=N]
  answer  --model M IMAGE... --question=TEXT [--candidates=FILE] [--top_n=N]
  match   --model M IMAGE... --text=TEXT [--text=TEXT ...]
  embed   --model M IMAGE...
      ask a model about images: files, folders or patterns; --json gives one object a line.
      M is a model folder, a .pth, a Hugging Face folder or hub name, or a released name
  serve --model M [--model NAME=M ...] [--host=ADDRESS] [--port=N] [--token_file=FILE]
      the same over HTTP, with a page to try it; see docs/serving.md
  convert SOURCE TARGET --to blip_jax|huggingface|salesforce [--task=caption|retrieval]
      carry weights to another project, and tell what became of each tensor
  data check   PLACE [--out=DIR] [--tokenizer=M] [--limit=N]
  data convert PLACE TARGET --to array_record|webdataset [--processes=N]
  data annotations FILE... --of coco|flickr30k|vqa|vg|nlvr2|nlvr|nocaps|msrvtt --out DIR
  data split FILE --by FIELD --out DIR [--share=0.2] [--seed=N]
  data bench   [PLACE] [--step_time=SECONDS] [--batch_size=N] [--workers=N]
      image-text data: folders, JSON, CSV, parquet, tars, tfds:NAME/SPLIT, ArrayRecord
  capfilt run CORPUS OUT --captioner M --filter M [--method=nucleus|beam|greedy]
      [--num_captions=N] [--to=webdataset|parquet|json|array_record] [--shard=i/N|auto] [--lease=S]
      captions and scores any corpus, in any number of processes; the same command carries on
  capfilt filter RUN... [--threshold=T,...] [--top_fraction=F] [--out=DIR] [--to=FORMAT]
      the texts of a finished run of CapFilt chosen again, without a model; --out DIR writes them
  capfilt report RUN [--price=DOLLARS_AN_HOUR] [--filter=M]
      one page about a finished run
"""
IMAGE_COMMANDS = ("caption", "answer", "match", "embed")


class UserError(Exception):
    """A mistake of the user's, told in one sentence."""


def main(argv: list[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    argv = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("absl", "orbax", "jax", "grain"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        command(argv)
    except flags.Error as error:  # of a config file that fails: the traceback's last line
        print(f"blip-jax: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
    except (UserError, ValueError, FileNotFoundError) as error:
        print(f"blip-jax: {error}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, OSError) as error:
        print(f"blip-jax: {error}", file=sys.stderr)
        sys.exit(1)
    except Stopped as stopped:
        print(f"blip-jax: {stopped}; the same command carries on", file=sys.stderr)
        sys.exit(42)
    except KeyboardInterrupt:
        print("blip-jax: stopped", file=sys.stderr)
        sys.exit(130)


def command(argv: list[str]) -> None:
    """Finds the command and hands it its flags."""
    if not argv or argv[0] in (*HELP, "help"):
        print(USAGE)
        return
    commands: dict[str, Callable[[list[str]], None]] = {
        "bootstrap": run_bootstrap,
        "train": run_train,
        "evaluate": run_evaluate,
        "compile": run_compile,
        "goodput": run_goodput,
        "serve": run_serve,
        "convert": run_convert,
        "data": run_data,
        "capfilt": run_capfilt,
        **{name: functools.partial(run_images, name) for name in IMAGE_COMMANDS},
    }
    if argv[0] not in commands:
        raise UserError(f"no command {argv[0]!r}{nearest(argv[0], commands)}; see blip-jax --help")
    try:
        commands[argv[0]](argv[1:])
    except HelpAsked as asked:
        print(usage_of(argv), asked, sep="\n")


def usage_of(argv: list[str]) -> str:
    """What `USAGE` says of a command, and of its second word where it has one."""
    wanted = [word for word in argv[:2] if not word.startswith("-")]
    entries = re.split(r"\n  (?=\w)", USAGE)[1:]
    words = [entry.split() for entry in entries]
    for known in (wanted, wanted[:1]):
        found = [e for e, w in zip(entries, words, strict=True) if w[: len(known)] == known]
        if found:
            break
    return "usage: blip-jax " + "\n       blip-jax ".join(found)


def nearest(name: str, names: Iterable[str]) -> str:
    """', did you mean X?' where something is near."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def run_bootstrap(argv: list[str]) -> None:
    """blip-jax bootstrap."""
    config, workdir = parse_config(argv)
    from blip_jax.data.storage import is_remote
    from blip_jax.train.hosts import is_cluster

    if is_remote(workdir) or is_cluster():
        raise UserError(
            "bootstrap runs in one process and in a folder on disk; `blip-jax train` takes buckets "
            "and many processes"
        )
    compilation_cache()
    from blip_jax.bootstrap.stages import bootstrap

    print(f"report: {bootstrap(config, Path(workdir))}")


def run_train(argv: list[str]) -> None:
    """blip-jax train."""
    config, workdir = parse_config(argv)
    compilation_cache()
    from blip_jax.train.hosts import join_hosts

    join_hosts()
    from blip_jax.training import run_training

    print(f"model: {run_training(config, workdir)}")


def run_evaluate(argv: list[str]) -> None:
    """blip-jax evaluate."""
    values = Flags()
    flags.DEFINE_string("checkpoint", None, "what blip_jax.load opens", flag_values=values)
    flags.DEFINE_string("out", "evaluation", "folder to write to", flag_values=values)
    config = read_config(argv, values)
    compilation_cache()
    from blip_jax.cli_evaluate import run

    run(config, values.checkpoint, values.out)


def run_compile(argv: list[str]) -> None:
    """blip-jax compile."""
    values = Flags()
    flags.DEFINE_string("topology", None, "such as v5e:16x16", flag_values=values)
    config = read_config(argv, values)
    from blip_jax.compiling import compile_programs
    from blip_jax.train.ahead import chip_of, table

    programs = compile_programs(config, values.topology)
    print(table(programs, chip_of(values.topology) if values.topology else None))


def run_goodput(argv: list[str]) -> None:
    """blip-jax goodput."""
    from blip_jax.train.goodput import goodput, read_goodput, table

    folders = Flags()(["blip-jax goodput", *argv])[1:]
    if len(folders) != 1:
        raise UserError("goodput takes one folder, that of a run")
    print(table(goodput(read_goodput(folders[0]))))


def run_images(name: str, argv: list[str]) -> None:
    """blip-jax caption, answer, match, embed."""
    compilation_cache()
    from blip_jax.cli_images import run

    run(name, argv)


def run_serve(argv: list[str]) -> None:
    """blip-jax serve."""
    compilation_cache()
    from blip_jax.cli_serve import run

    run(argv)


def run_convert(argv: list[str]) -> None:
    """blip-jax convert."""
    from blip_jax.cli_convert import run

    run(argv)


def run_data(argv: list[str]) -> None:
    """blip-jax data check, convert, annotations, split, bench."""
    from blip_jax.cli_data import run

    run(argv)


def run_capfilt(argv: list[str]) -> None:
    """blip-jax capfilt run, filter, report."""
    if argv[:1] == ["run"]:  # the others need no jax
        compilation_cache()
    from blip_jax.cli_capfilt import run

    run(argv)


def parse_config(argv: list[str]) -> tuple[ConfigDict, str]:
    """--config, its overrides and --workdir."""
    values = Flags()
    flags.DEFINE_string("workdir", None, "where the run lives", flag_values=values)
    config = read_config(argv, values)
    if values.workdir is None:
        raise UserError("--config and --workdir are both needed")
    return config, values.workdir


def read_config(argv: list[str], values: flags.FlagValues) -> ConfigDict:
    """--config and its overrides; other flags go to `values`.

    Raises:
      UserError: a flag or a config key that does not exist, with the nearest that does.
    """
    config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=True, sys_argv=["blip-jax", *argv]
    )
    try:
        rest = values(["blip-jax", *argv])[1:]
        config = values.config
    except (AttributeError, KeyError) as error:
        # ml_collections quotes its own message once more.
        text = str(error.args[0]).replace("\\n", ". ").replace("\n", ". ").replace("\\'", "'")
        sentence = text.replace("'", "")
        raise UserError(f"unknown config key {sentence}") from error
    except flags.UnrecognizedFlagError as error:
        hint = nearest(error.flagname, values)
        raise UserError(f"unknown flag --{error.flagname}{hint}") from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")
    if config is None:
        raise UserError("--config is needed")
    return config


def compilation_cache() -> None:
    """Keeps compiled programs between runs and stages, so that a restart does not pay again."""
    import jax

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path.home() / ".cache/blip_jax/xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
