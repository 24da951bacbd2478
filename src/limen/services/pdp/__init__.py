"""The decision point as a process: engines behind the doors of the standards.

It stores no policy; it decides with what it is started with.
"""
