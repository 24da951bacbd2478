"""The token service of one mesh: whose token, for whom, by which policy; signed here.

It knows the server by its API alone (`link`), whether it runs in the server's process or apart.
"""
