"""Sweeps: a base experiment, a grid and seeds, each combination a run of its own."""
