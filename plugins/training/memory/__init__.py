"""A memory plan says what a run will hold on each GPU, before anything is loaded."""
