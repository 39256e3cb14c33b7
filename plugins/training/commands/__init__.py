"""The commands of training are ``train``, ``eval`` and ``export``."""
