"""The small checkpoint, and a memory for what commands compile."""

from small_checkpoint import compiled_once, small_checkpoint  # noqa: F401
