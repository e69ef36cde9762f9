"""``python -m search.cli``."""

from search.cli import main

main()
