raise RuntimeError("a library of mine is missing")
