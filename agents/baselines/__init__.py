"""Baselines of continual learning, as plugins of Avalanche's for agents that live episodes."""
