"""A thin client of the services: what the app and the command line use, and what scripts may.

::

    from raylens.client import Client

    with Client.from_environment() as client:
        (span,) = client.traces.add([{"model": "raylens/pico", "input": "2 + 2 =", "output": " 4"}])
        for feature in client.sae.extract(span, top_k=10).features:
            print(feature.id, feature.label, feature.activation)
"""

from __future__ import annotations

from raylens.client.client import Client

__all__ = ["Client"]
