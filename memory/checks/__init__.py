"""Whether a memory or a policy keeps its contract."""
