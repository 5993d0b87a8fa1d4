-- Sums that pages and exports show. Reviews update them, so that no page reads the ledger.

CREATE INDEX users_of_team ON users (team_id) WHERE team_id IS NOT NULL;

CREATE TABLE user_sessions (
    user_id         bigint NOT NULL,
    session_id      bigint NOT NULL,
    results         bigint NOT NULL,
    credit          numeric(20,3) NOT NULL,
    PRIMARY KEY (user_id, session_id)
);
CREATE INDEX user_sessions_of_session ON user_sessions (session_id);
CREATE TABLE host_sessions (
    host_id         bigint NOT NULL,
    session_id      bigint NOT NULL,
    results         bigint NOT NULL,
    credit          numeric(20,3) NOT NULL,
    PRIMARY KEY (host_id, session_id)
);
CREATE TABLE user_experiments (
    user_id         bigint NOT NULL,
    experiment_id   bigint NOT NULL,
    results         bigint NOT NULL,
    credit          numeric(20,3) NOT NULL,
    PRIMARY KEY (user_id, experiment_id)
);
CREATE INDEX user_experiments_leaders ON user_experiments (experiment_id, credit DESC, user_id);
CREATE TABLE host_outcomes (
    host_id         bigint NOT NULL,
    outcome         text NOT NULL,                       -- a success that earned nothing is "refused"
    tasks           bigint NOT NULL,
    PRIMARY KEY (host_id, outcome)
);
-- The values by which a finding was last judged: arrays with one entry a seed, and the verdict.
CREATE TABLE finding_values (
    version_id      bigint NOT NULL REFERENCES versions,
    finding         text NOT NULL,
    judged_at       timestamptz NOT NULL DEFAULT now(),
    verdict         jsonb NOT NULL,
    seeds           bigint[] NOT NULL,
    hosts           bigint[] NOT NULL,
    numbers         float8[] NOT NULL,                   -- the values to which the criterion applies
    fields          float8[] NOT NULL,
    controls        float8[] NOT NULL,                   -- empty without a control
    PRIMARY KEY (version_id, finding)
);
-- Counts over the whole project, taken by the periodic work instead of at a visitor's request.
CREATE TABLE snapshots (
    name            text PRIMARY KEY,
    at              timestamptz NOT NULL,
    content         jsonb NOT NULL
);
CREATE INDEX sessions_by_time ON sessions (opened_at);
CREATE INDEX tasks_of_host ON tasks (host_id, task_id);
-- The order by recent average does not change with time, because all averages halve in 7 days.
CREATE INDEX users_recent ON users ((ln(average) + 1.1460766875e-06::float8 * extract(
    epoch FROM average_at - timestamptz '2020-01-01 00:00:00+00')::float8) DESC NULLS LAST, user_id)
    WHERE average > 0;

INSERT INTO user_sessions SELECT user_id, session_id, count(*), sum(amount) FROM credit
    WHERE user_id IS NOT NULL GROUP BY 1, 2;
INSERT INTO host_sessions SELECT host_id, session_id, count(*), sum(amount) FROM credit
    GROUP BY 1, 2;
INSERT INTO user_experiments SELECT user_id, experiment_id, count(*), sum(amount) FROM credit
    WHERE user_id IS NOT NULL GROUP BY 1, 2;
INSERT INTO host_outcomes
    SELECT host_id, CASE WHEN refusal <> '' THEN 'refused' ELSE outcome END, count(*) FROM tasks
    WHERE state = 'reviewed' AND outcome IS NOT NULL GROUP BY 1, 2;
