"""Memories and the policies that manage them: tensors only, nothing of agents or tasks."""
