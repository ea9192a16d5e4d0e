"""The SDK and regctl over TLS: members and callers prove themselves with certificates of one authority."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from registry.cli.local_cluster import LocalCluster
from registry.cli.main import run
from registry.client import Client, TlsConfig
from registry.core.errors import Invalid, Unavailable

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def certificates(directory: Path) -> TlsConfig:
    """An authority and one certificate for localhost that serves everyone."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    openssl("req", *new_key, "-keyout", "all.key", "-out", "all.csr", "-subj", "/CN=localhost")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", "all.csr", *authority, "-days", "2", "-extfile", "names", "-out", "all.pem")
    return TlsConfig(ca=str(directory / "ca.pem"), cert=str(directory / "all.pem"), key=str(directory / "all.key"))


async def test_calls_over_tls(tmp_path):
    tls = certificates(tmp_path)
    async with LocalCluster(tmp_path / "cluster", tls=tls) as cluster:
        async with Client(cluster.endpoints[0], tls=tls) as client:
            await client.publish("tls/a", b"{}")
            assert (await client.switch("tls/a", 1, reason="go")).generation == 1
        async with Client(cluster.endpoints) as plain:
            with pytest.raises(Unavailable):
                await plain.pointer("tls/a", timeout_s=0.3)
        async with Client(cluster.endpoints, tls=TlsConfig(ca=tls.ca)) as nobody:
            with pytest.raises(Unavailable):
                await nobody.pointer("tls/a", timeout_s=0.3)


def test_regctl_over_tls(tmp_path, capfd):
    tls = certificates(tmp_path)
    flags = ["--tls-ca", str(tls.ca), "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    cluster = LocalCluster(tmp_path / "cluster", 1, tls=tls)
    try:
        asyncio.run(cluster.start())
        assert run(["cluster", "status", "--endpoints", cluster.endpoints[0], *flags]) == 0
    finally:
        asyncio.run(cluster.stop())
    assert json.loads(capfd.readouterr().out)["members"][0]["name"] == "n1"


def test_a_certificate_without_its_key_is_refused(tmp_path):
    tls = certificates(tmp_path)
    with pytest.raises(Invalid, match="go together"):
        Client("127.0.0.1:7400", tls=TlsConfig(ca=tls.ca, cert=tls.cert))
    with pytest.raises(Invalid, match="cannot read"):
        Client("127.0.0.1:7400", tls=TlsConfig(ca="no-such-file"))
