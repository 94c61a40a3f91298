"""The machine: devices, random streams, checkpoints, metrics, signals. Knows nothing about editing."""
