"""Triggers in a rig's PostgreSQL that write down who claimed and who settled: the table's word against the program's.

A process is known by the `application_name` of its connections. A settlement under a token that another process
claimed is stale: it must have had no effect.
"""

from __future__ import annotations

from sqlalchemy import create_engine, text

_MAKE = """
CREATE TABLE watch_claim (delivery bigint, token bigint, who text, PRIMARY KEY (delivery, token));
CREATE TABLE watch_settle (delivery bigint, token bigint, who text);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.token > OLD.token THEN
    INSERT INTO watch_claim VALUES (NEW.id, NEW.token, current_setting('application_name'));
  ELSIF OLD.state = 'active' AND NEW.state IN ('delivered', 'deferred', 'failed') THEN
    INSERT INTO watch_settle VALUES (NEW.id, OLD.token, current_setting('application_name'));
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER UPDATE ON delivery FOR EACH ROW EXECUTE FUNCTION watch();
CREATE FUNCTION watch_new() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.token > 0 THEN
    INSERT INTO watch_claim VALUES (NEW.id, NEW.token, current_setting('application_name'));
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER watch_new AFTER INSERT ON delivery FOR EACH ROW EXECUTE FUNCTION watch_new();
"""
_STALE = "SELECT count(*) FROM watch_settle s JOIN watch_claim c USING (delivery, token) WHERE c.who <> s.who"
_TAKEN_OVER = """SELECT count(*) FROM watch_claim a JOIN watch_claim b ON b.delivery = a.delivery
  AND b.token = a.token + 1 AND b.who <> a.who"""
_ACTIVE = "SELECT count(*) FROM delivery WHERE state = 'active'"


class Watch:
    """The triggers are there from now on."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
        with self._engine.connect() as connection:
            connection.exec_driver_sql(_MAKE)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def stale(self) -> int:
        """Settlements that took effect though another process had claimed the delivery."""
        return self._count(_STALE)

    def taken_over(self) -> int:
        """Claims of what another process had claimed before."""
        return self._count(_TAKEN_OVER)

    def active(self) -> int:
        """Deliveries that are leased now."""
        return self._count(_ACTIVE)

    def _count(self, query: str) -> int:
        with self._engine.connect() as connection:
            return int(connection.scalar(text(query)) or 0)
