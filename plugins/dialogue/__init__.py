"""The built-in dialogues write the messages of tasks and read the actions in responses."""
