"""Formats of files: the library's own, and those it reads."""
