"""Rectified flow, arrays in, arrays out: the straight path, its time grid, its steps, and guidance."""
