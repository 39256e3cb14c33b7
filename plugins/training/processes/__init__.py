"""The processes of a run: launching them, meeting, stopping."""
