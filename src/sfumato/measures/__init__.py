"""Measures of pictures, and of features of pictures: numbers with intervals, each by a stated method."""
