"""How good a model is, in numbers with intervals, each by a stated method."""
