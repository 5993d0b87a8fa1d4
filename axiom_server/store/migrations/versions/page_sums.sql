-- More sums for pages: written at a review or a deployment, so that no page adds up anything.

DROP TABLE user_sessions;                                -- it is filled anew, from the ledger
CREATE TABLE user_sessions (
    user_id         bigint NOT NULL,
    session_id      bigint NOT NULL,
    results         bigint NOT NULL,
    credit          numeric(20,3) NOT NULL,
    hosts           integer NOT NULL,                    -- that earned it
    first_hosts     bigint[] NOT NULL                    -- the first three of them
);
ALTER TABLE sessions ADD sums jsonb NOT NULL DEFAULT '{}'; -- see store/session_sums.py
ALTER TABLE deployments ADD summed boolean NOT NULL DEFAULT false;
CREATE INDEX deployments_to_sum ON deployments (deployment_id) WHERE NOT summed;
CREATE TABLE session_hosts (                             -- what a session's deployments gave hosts
    session_id      bigint NOT NULL,
    host_id         bigint NOT NULL,
    cpu             bigint NOT NULL,
    gpu             bigint NOT NULL,
    PRIMARY KEY (session_id, host_id)
);
CREATE INDEX session_hosts_places ON session_hosts (session_id, (cpu + gpu) DESC, host_id);
CREATE TABLE session_experiments (                       -- and how much of which version
    session_id      bigint NOT NULL,
    version_id      bigint NOT NULL,
    deployment_id   bigint NOT NULL,                     -- the first of them
    workunits       bigint NOT NULL,
    new             boolean NOT NULL,
    parameters      jsonb,                               -- where it is new
    PRIMARY KEY (session_id, version_id)
);

-- By day: of each experiment, and of each team with those who were its members at the review.
CREATE TABLE experiment_days (
    experiment_id   bigint NOT NULL,
    day             date NOT NULL,
    results         bigint NOT NULL,
    credit          numeric(20,3) NOT NULL,
    PRIMARY KEY (experiment_id, day)
);
CREATE TABLE team_days (
    team_id         bigint NOT NULL,
    day             date NOT NULL,
    results         bigint NOT NULL,
    credit          numeric(20,3) NOT NULL,
    PRIMARY KEY (team_id, day)
);
CREATE INDEX team_days_places ON team_days (day, credit DESC, team_id);
CREATE TABLE team_experiments (
    team_id         bigint NOT NULL,
    experiment_id   bigint NOT NULL,
    results         bigint NOT NULL,
    credit          numeric(20,3) NOT NULL,
    PRIMARY KEY (team_id, experiment_id)
);
CREATE INDEX team_experiments_places ON team_experiments (experiment_id, credit DESC, team_id);

-- Pictures and tables that take long to make: of declared figures, and of studies.
CREATE TABLE drawings (
    owner           text NOT NULL,                       -- version:ID or study:ID
    name            text NOT NULL,
    made_at         timestamptz NOT NULL DEFAULT now(),
    made_of         bigint NOT NULL,                     -- how many results
    content         bytea NOT NULL,
    PRIMARY KEY (owner, name)
);

-- Modes that an account names, and the settings that each sets.
CREATE TABLE account_modes (
    user_id         bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    name            text NOT NULL,
    settings        jsonb NOT NULL,
    PRIMARY KEY (user_id, name)
);
ALTER TABLE users ADD mode text NOT NULL DEFAULT '';     -- the mode that is on; '': none

CREATE INDEX hosts_quarantined ON hosts (host_id) WHERE state = 'quarantined';  -- staff's page
