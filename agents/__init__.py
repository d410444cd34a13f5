"""Agents: the controller, the memory agent, how it learns and lives, its log and its report."""
