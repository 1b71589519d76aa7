"""ONNX graphs: builds them and edits them for devices."""
