"""Memories and the policies that manage them: tensors only, no knowledge of agents or environments."""
