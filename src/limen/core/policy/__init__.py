"""One representation of every policy dialect, and `decide()`, which answers any request.

`core/envoy` enforces the same values; agreement tests hold the two together.
"""
