"""A model for other programs: as an ONNX graph, or evaluated by another program instead of PyTorch."""
