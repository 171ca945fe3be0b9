"""Measurements of speed; each prints a table, and none is run by the tests."""
