"""Raw multi-coil knee k-space of simulated subjects, from the anatomy of real knees."""

from recon.simulate.simulation import simulate

__all__ = ["simulate"]
