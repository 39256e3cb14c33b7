"""The environments of the package gymnasium, and the grid worlds of minigrid, which are among them."""
