"""TRL's objectives by its own option names: presets with its conventions, its numbers.

Every function returns the same objects as `unipost.presets`; what differs from the
papers is written in the docstring. Versions: TRL 1.16, unless the name says otherwise.
"""
