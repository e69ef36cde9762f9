"""From raw k-space to batches: the prepared format, how it is made, and how it is read."""
