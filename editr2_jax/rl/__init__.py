"""Policy gradients, arrays in, arrays out: advantages, filter, surrogate, divergence, and their sum."""
