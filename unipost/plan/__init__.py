"""What a step takes on chips that are not there: compiled ahead, or estimated."""
