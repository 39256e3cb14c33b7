"""The command ``probe`` has its subcommands here."""
