"""Endpoints on AWS: what should be, what is, the calls between, and making them."""
