"""Models with a scalar head: reward models, process reward models, PPO's critic."""
