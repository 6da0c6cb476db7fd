"""Commands: one module each, with a function `main` that parses, calls and prints."""

import slowfast
from slowfast import name_collision

if not hasattr(slowfast, "__version__"):  # pip has installed another package over this one
    problem = name_collision.find_problem() or f"{slowfast.__file__} is not of this package"
    raise SystemExit(f"error: {problem}. {name_collision.REMEDY}")
