"""How a search ends before its end."""

from __future__ import annotations


class SearchError(Exception):
    """A search could not go on, through no fault of its input; one sentence, exit code 1. The study is left so that the
    same call continues it."""


class Terminated(BaseException):
    """SIGTERM, as SLURM, systemd, Kubernetes and spot instances send it; exit code 143. Like KeyboardInterrupt it is no
    Exception, so that nothing on the way takes it for an error."""
