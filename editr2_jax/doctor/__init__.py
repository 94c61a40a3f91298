"""Is this run fit to start? Measurements on a small batch, through the functions that training uses; a verdict and advice for each."""
