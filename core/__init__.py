"""The minimal core: hooks, plugins, registry, composition, sweeps and run directories. Nothing here imports torch."""
