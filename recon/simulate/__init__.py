"""Raw multi-coil knee k-space of simulated subjects, from the anatomy of real knees."""
