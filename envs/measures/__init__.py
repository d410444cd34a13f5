"""Numbers of a lifetime: metrics, curves, intervals, ranks, floors, plasticity, re-use."""
