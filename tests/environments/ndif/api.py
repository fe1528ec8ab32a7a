"""NDIF's API, with the keys of the tests in place of a database's table."""

import json
import os

from ndif.common.providers.postgres import PostgresProvider
from ndif.services.api.app import app

__all__ = ["app"]
KEYS = json.loads(os.environ["NDIF_TEST_KEYS"])  # each with its tags


async def fetch(query, key):
    """Rows of what ndif/services/api/auth.py asks for: one for each tag, none for no such key."""
    about = {"user_id": "someone", "email": "someone@example.org"}
    tags = KEYS.get(str(key))
    return [about | {"user_tag": tag} for tag in tags or [None]] if tags is not None else []


PostgresProvider.enabled = staticmethod(lambda: True)
PostgresProvider.fetch = staticmethod(fetch)
