"""A probe of a job's health for Kubernetes: exit code 0 if a page answers 200.

    python deploy/monitoring/probe.py PORT /healthz

It runs in the container of the job and uses the certificate of the job, which the authority of the clients
must have signed too. Without KPIFLOW_METRICS_CERTIFICATE it speaks plain HTTP.
"""

import os
import ssl
import sys
import urllib.request
from urllib.error import URLError


def probe(port: int, page: str) -> bool:
    """Whether a page of the job on this machine answers 200."""
    context = _make_context()
    url = f"{'https' if context else 'http'}://127.0.0.1:{port}{page}"
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as reply:
            return bool(reply.status == 200)
    except (URLError, OSError):
        return False


def _make_context() -> ssl.SSLContext | None:
    certificate, key, ca = (
        os.environ.get(f"KPIFLOW_METRICS_{name}") for name in ("CERTIFICATE", "KEY", "CA")
    )
    if certificate is None:
        return None
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False  # the address is this machine's loopback
    context.load_cert_chain(certificate, key)
    return context


if __name__ == "__main__":
    raise SystemExit(not probe(int(sys.argv[1]), sys.argv[2]))
