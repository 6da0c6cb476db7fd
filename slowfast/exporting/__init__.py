"""Export: a classifier as a file for programs without this package, in the format pt2 or ONNX."""
