"""The loops that the worker is held against; each runs as a process of its own until SIGTERM."""
