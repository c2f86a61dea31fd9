"""Measure any deployment."""
