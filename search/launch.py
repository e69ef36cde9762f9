"""The address that ``search.run.launch`` had before the rooms; scripts outside the project import it from here."""

from search.run.facts import DataFacts
from search.run.launch import agree, launch

__all__ = ["DataFacts", "agree", "launch"]
