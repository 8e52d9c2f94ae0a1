"""Signaling: the server through which hosts and clients find each other, and the connection that both hold to it.

Only this folder imports Autobahn.
"""
