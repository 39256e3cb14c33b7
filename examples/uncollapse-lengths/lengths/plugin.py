"""The plugin registers the command. Its module is imported when the command is used."""

from uncollapse import hookimpl


@hookimpl
def register_commands(register):
    register("lengths", "lengths.command:lengths", summary="Response lengths of runs, step by step.")
