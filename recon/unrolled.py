"""The address that ``recon.network.unrolled`` had before the rooms; scripts outside the project import it from here."""

from recon.network.unrolled import UnrolledNetwork

__all__ = ["UnrolledNetwork"]
