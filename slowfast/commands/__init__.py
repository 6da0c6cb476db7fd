"""Commands: one module each, with a function `main` that parses, calls and prints."""
