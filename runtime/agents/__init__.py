"""Running agents: the standard loop, user-written graphs, and where they run."""
