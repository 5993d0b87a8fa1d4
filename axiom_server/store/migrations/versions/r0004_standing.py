"""Add the standing of accounts, and which results were confirmed.

Accounts of a 0.1.0 project keep their standing: it is computed from the comparisons of their
results. Results that counted then still count.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

COLUMNS = """
ALTER TABLE users
    ADD vouched boolean NOT NULL DEFAULT false,          -- staff vouch for its owner
    ADD state text NOT NULL DEFAULT 'active',            -- active, quarantined
    ADD state_reason text NOT NULL DEFAULT '',
    ADD address text NOT NULL DEFAULT '',                -- where it joined from; '': unknown
    ADD validated bigint NOT NULL DEFAULT 0,             -- number of its confirmed results
    ADD agreeing integer NOT NULL DEFAULT 0,             -- number of accounts that confirmed them
    ADD confirmed_by_staff boolean NOT NULL DEFAULT false,
    ADD returned integer NOT NULL DEFAULT 0,             -- tasks given back or lost
    ADD unconfirmed integer NOT NULL DEFAULT 0;          -- its results that wait for confirmation
UPDATE users SET vouched = true WHERE user_id IN (SELECT user_id FROM hosts WHERE imported);
ALTER TABLE hosts ADD trusted boolean NOT NULL DEFAULT false;  -- staff's own
ALTER TABLE results ADD validated boolean NOT NULL DEFAULT false;
CREATE TABLE account_agreements (
    user_id         bigint NOT NULL,
    other_id        bigint NOT NULL,                     -- confirmed a result of the first
    PRIMARY KEY (user_id, other_id)
);
"""

#: Results on which hosts agreed. Results of outliers were deleted, so all that are left agree.
CONFIRMED = """
CREATE TEMPORARY TABLE confirmed ON COMMIT DROP AS
SELECT t.task_id, t.workunit_id, t.user_id
FROM comparisons c JOIN tasks t USING (workunit_id) JOIN results r ON r.task_id = t.task_id
WHERE c.state IN ('agreed', 'settled') AND t.user_id IS NOT NULL;
INSERT INTO account_agreements (user_id, other_id)
SELECT DISTINCT a.user_id, b.user_id FROM confirmed a JOIN confirmed b USING (workunit_id)
WHERE a.user_id <> b.user_id;
UPDATE users u SET validated = c.results FROM (
    SELECT user_id, count(*) AS results FROM confirmed GROUP BY user_id) c
WHERE u.user_id = c.user_id;
UPDATE users u SET agreeing = a.accounts FROM (
    SELECT user_id, count(*) AS accounts FROM account_agreements GROUP BY user_id) a
WHERE u.user_id = a.user_id;
UPDATE results r SET validated = true WHERE NOT EXISTS (
    SELECT FROM comparisons c WHERE c.workunit_id = r.workunit_id
      AND c.state NOT IN ('agreed', 'settled'));
"""


def upgrade() -> None:
    """Add the columns and tables, and compute the standing of existing accounts."""
    for statement in (COLUMNS, CONFIRMED):
        op.get_bind().exec_driver_sql(statement)
