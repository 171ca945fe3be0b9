"""Studies: commands that answer one question each, with committed tables. Not tests."""
