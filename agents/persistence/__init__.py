"""What outlives a process: kept agents, checkpoints, memories in databases; and whom to trust."""
