"""``python -m splitpoint``: the command line."""

from search.cli import main

main()
