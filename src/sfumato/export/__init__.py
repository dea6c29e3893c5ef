"""A model for other programs: as an ONNX graph, and evaluated by one of them in the place of PyTorch."""
