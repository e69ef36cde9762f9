"""The command line: ``main`` runs it."""

from search.cli.main import main

__all__ = ["main"]
