"""What a step takes on accelerators that are not there: compiled ahead, or estimated."""
