"""Agents: controllers, the memory agent, how it learns and lives, its log, its report and the command line."""
