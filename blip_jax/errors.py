"""What ends a job before its time, other than a failure."""


class Stopped(Exception):
    """SIGTERM came and the work is saved; the same command carries on. Exit code 42."""
