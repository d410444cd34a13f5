"""Agents: the controller, the memory agent, how it learns and lives, its log and its report.

Importing this package registers memory control with Gymnasium, by name only.
"""

import gymnasium

gymnasium.register(
    "stillknows/MemoryControl-v0",
    entry_point="stillknows.agents.teaching.memory_control:MemoryControl",
)
