"""Studies: arms, curves of outcomes over the steps, and claims judged by code."""
