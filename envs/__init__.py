"""Environments, the streams that order them, and the metrics of a lifetime."""
