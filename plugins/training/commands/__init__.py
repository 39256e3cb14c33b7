"""The commands ``train``, ``eval`` and ``export``."""
