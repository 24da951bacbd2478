"""Attribute sources at work: files, HTTP, SQLite, PostgreSQL; cached, bounded, one fetch at a time.

Every fetcher takes a question and gives rows, or raises `SourceFailure`, in bounded time and
memory. `point` is what others use.
"""
