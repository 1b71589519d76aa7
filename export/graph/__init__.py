"""ONNX graphs: building them, and edits that a device needs."""
