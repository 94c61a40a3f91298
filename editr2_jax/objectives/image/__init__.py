"""Image objectives: one file each, named by objective.image.kind. `objectives/points.py` says what a file must hold."""
