"""Helpers shared by the test programs under tests/ that drive a built example from outside."""
