"""The processes of a run are launched here, meet, and are stopped."""
