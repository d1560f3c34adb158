"""Fuzzing of every parser that reads hostile bytes: ``make fuzz MINUTES=n``; see README.md."""
