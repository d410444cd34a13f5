"""Kinds of problems that are written in sentences, one a file."""
