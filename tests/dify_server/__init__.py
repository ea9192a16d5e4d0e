"""A server with Dify's rules, for tests. It is not Dify: results are "against a server with Dify's rules".

Real HTTP, real SQLite, and the rules of Dify's console API that a target meets: imports that overwrite the draft, the
version rule and its ten minutes, secrets that are blanked or kept, ids that are dropped, publication as a new row.
"""

from tests.dify_server.server import DifyServer, Fault

__all__ = ["DifyServer", "Fault"]
