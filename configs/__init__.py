"""Hydra configuration: folders mirror the code, one YAML a class."""
