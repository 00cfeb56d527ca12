"""The session grader: acoustic prior and language model over a whole session."""
