"""What a run needs of a machine that is not there: every phase compiled for a named topology, its bytes, FLOPs, collectives and seconds."""
