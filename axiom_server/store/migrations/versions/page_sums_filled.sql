-- What was credited and deployed before is summed up once.

CREATE TEMPORARY TABLE earned ON COMMIT DROP AS
SELECT session_id, user_id, host_id, experiment_id, count(*) AS results, sum(amount) AS credit
FROM credit GROUP BY 1, 2, 3, 4;

INSERT INTO user_sessions
SELECT user_id, session_id, sum(results), sum(credit), count(DISTINCT host_id),
       (array_agg(DISTINCT host_id))[1:3]
FROM earned WHERE user_id IS NOT NULL GROUP BY 1, 2;
ALTER TABLE user_sessions ADD PRIMARY KEY (user_id, session_id);
CREATE INDEX user_sessions_places ON user_sessions (session_id, credit DESC, user_id);

UPDATE sessions s SET sums = jsonb_build_object(
    'users', (SELECT count(*) FROM user_sessions u WHERE u.session_id = s.session_id),
    'experiments', e.experiments, 'no_owner', n.no_owner)
FROM (SELECT session_id, jsonb_object_agg(experiment_id, results) AS experiments FROM (
          SELECT session_id, experiment_id, sum(results) AS results FROM earned GROUP BY 1, 2) a
      GROUP BY 1) e
LEFT JOIN (SELECT session_id, jsonb_build_object(
               'results', sum(results), 'credit', sum(credit), 'hosts', count(DISTINCT host_id),
               'first_hosts', to_jsonb((array_agg(DISTINCT host_id))[1:3])) AS no_owner
           FROM earned WHERE user_id IS NULL GROUP BY 1) n USING (session_id)
WHERE e.session_id = s.session_id;

INSERT INTO experiment_days
SELECT experiment_id, (s.opened_at AT TIME ZONE 'UTC')::date, sum(e.results), sum(e.credit)
FROM earned e JOIN sessions s USING (session_id) GROUP BY 1, 2;
INSERT INTO team_days
SELECT u.team_id, (s.opened_at AT TIME ZONE 'UTC')::date, sum(e.results), sum(e.credit)
FROM earned e JOIN sessions s USING (session_id) JOIN users u ON u.user_id = e.user_id
WHERE u.team_id IS NOT NULL GROUP BY 1, 2;
INSERT INTO team_experiments
SELECT u.team_id, e.experiment_id, sum(e.results), sum(e.credit)
FROM user_experiments e JOIN users u USING (user_id) WHERE u.team_id IS NOT NULL GROUP BY 1, 2;
