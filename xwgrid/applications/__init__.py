"""What the grid can run: one file per application says how its results are named, read and compared."""
