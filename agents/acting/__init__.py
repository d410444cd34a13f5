"""Acting in any Gymnasium environment: bodies, cores, PPO, episodic control, and a life of it."""
