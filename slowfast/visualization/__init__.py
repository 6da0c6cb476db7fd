"""TensorBoard scalars and contact sheets of what a model sees."""
