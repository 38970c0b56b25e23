"""ONNX Runtime behind the same Protocol as TensorRT: for laptops, tests and the demo."""
