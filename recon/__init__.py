"""MR reconstruction with multi-task unrolled networks. Knows nothing of searching: usable alone as a library."""
