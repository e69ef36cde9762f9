"""The address that ``search.run.ledger`` had before the rooms; scripts outside the project import it from here."""

from search.run.ledger import Ledger

__all__ = ["Ledger"]
