"""The commands of CapFilt over corpora."""

from blip_jax.cli_capfilt_filter import run_filter, run_report


def run(argv: list[str]) -> None:
    """blip-jax capfilt filter|report ...

    Raises:
      ValueError, FileNotFoundError: the user's mistake.
    """
    commands = {"filter": run_filter, "report": run_report}
    if not argv or argv[0] not in commands:
        asked = f"not {argv[0]!r}" if argv else "nothing was asked"
        raise ValueError(f"capfilt: expected one of {', '.join(commands)}; {asked}")
    commands[argv[0]](argv[1:])
