"""A TLS context from a certificate and a key in memory."""

from __future__ import annotations

import os
import ssl

from nblauncher.model import TlsFiles


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or newer with this certificate.

    `load_cert_chain` wants a path, and our own memfd has one, whichever account owns the descriptors that we were
    given. Call it before the process stops being dumpable: after that /proc/self belongs to root.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    descriptor = os.memfd_create("nblauncher-front-page", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(files.certificate + b"\n" + files.key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context
