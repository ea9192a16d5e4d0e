"""TLS of the three ports, of one set of files. Unreadable or wrong files raise OSError (ssl.SSLError is one)."""

from __future__ import annotations

import ssl

import grpc

from cluster.peers import PeerTls
from registry.server.config import Tls


def api(tls: Tls) -> grpc.ServerCredentials:
    """Callers show a certificate that the authority signed."""
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.cert.read_bytes())],
        root_certificates=tls.ca.read_bytes(),
        require_client_auth=True,
    )


def http(tls: Tls) -> ssl.SSLContext:
    """Probes and scrapers show no certificate; agents show one that the authority signed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(tls.cert, tls.key)
    return context


def peers(tls: Tls) -> PeerTls:
    """Members prove themselves to each other."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca)
    for context in (server, client):
        context.load_cert_chain(tls.cert, tls.key)
    return PeerTls(server=server, client=client)
