"""Rate limits that hold over all servers on one database."""

from __future__ import annotations

import logging

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from app.access.middleware import TokenBuckets

log = logging.getLogger(__name__)

_NOW = "extract(epoch from clock_timestamp())::double precision"
_FILLED = f"least(:burst, b.tokens + greatest(0, {_NOW} - b.at) * :rate)"
# It returns a row only if there was a token.
_TAKE = text(
    f"INSERT INTO rate_buckets AS b (key, tokens, at) VALUES (:key, :burst - 1, {_NOW}) ON CONFLICT (key) DO UPDATE "
    f"SET tokens = {_FILLED} - 1, at = {_NOW} WHERE {_FILLED} >= 1 RETURNING b.tokens")
_LEFT = text(f"SELECT {_FILLED} FROM rate_buckets AS b WHERE key = :key")


class SharedBuckets(TokenBuckets):
    """Token buckets by key in a Postgres database.  While it is away, this process counts by itself."""

    blocking = True

    def __init__(self, engine: Engine, group: str, own: TokenBuckets) -> None:
        """Share the limit of `own`; `group` names the pages that it is for."""
        self._engine, self._group, self._own = engine, group, own
        self.rate, self.burst = own.rate, own.burst

    def take(self, key: str, now: float | None = None) -> float:
        """Take a token.  Returns 0 if there was one, else the seconds until there is one."""
        values = {"key": f"{self._group} {key}"[:160], "burst": self.burst, "rate": self.rate}
        try:
            with self._engine.begin() as connection:
                if connection.scalar(_TAKE, values) is not None:
                    return 0.0
                left = connection.scalar(_LEFT, values)
        except SQLAlchemyError as error:
            log.warning("a rate limit could not be shared: %s", str(error).splitlines()[0])
            return self._own.take(key, now)
        return max(0.0, 1 - float(left or 0.0)) / self.rate
