"""The virtual measured host: people, a machine, the main job, and what must be refused."""
