"""How the settings say to reach a server."""

from pipelines.settings import Settings
from transforms.redis.connection import Connection


def connect_redis(url: str, settings: Settings) -> Connection:
    """The connection to a Redis server; nothing is connected yet."""
    password = settings.redis_password.get_secret_value() if settings.redis_password else None
    files = (settings.redis_ca, settings.redis_certificate, settings.redis_key)
    ca, certificate, key = (None if path is None else str(path.absolute()) for path in files)
    return Connection(url, settings.redis_user, password, ca, certificate, key)
