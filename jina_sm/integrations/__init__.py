"""Bridges to other people's libraries: each one file, each imported only by whoever asks for it."""
