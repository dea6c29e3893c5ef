"""The command `sfumato`: a thin file a verb, which reads arguments, calls the package and prints what came of it."""
