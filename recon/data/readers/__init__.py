"""Readers of raw k-space, one file a format."""
