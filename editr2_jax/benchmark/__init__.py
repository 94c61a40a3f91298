"""How fast every phase runs, against the arithmetic it needs and the rate this machine reaches at plain matrix products."""
