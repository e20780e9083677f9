-- Views over the dataset of a fleet, for DuckDB: `duckdb -init views.sql` in its folder, or `.read views.sql`.
-- A kind of machine is those of one kernel build and role. "seen" counts machines, "of" those that could have it.

CREATE VIEW analysed AS
    SELECT *, coalesce(nullif(build_id, ''), release) AS build FROM images WHERE status = 'ok' AND processes > 0;

CREATE VIEW kinds AS
    SELECT build, role, any_value(release) AS release, count(*) AS machines FROM analysed GROUP BY build, role;

CREATE VIEW unreadable AS
    SELECT image, location, role, status, exit_code, error FROM images WHERE NOT (status = 'ok' AND processes > 0);

CREATE VIEW serious AS
    SELECT m.location, m.role, m.hostname, f.* FROM findings f JOIN images m USING (image)
    WHERE f.severity IN ('critical', 'high', 'medium');

CREATE VIEW findings_by_rule AS
    SELECT severity, rule, any_value(rule_title) AS title, count(*) AS findings, count(DISTINCT image) AS machines,
           list(DISTINCT m.location ORDER BY m.location) AS locations
    FROM findings JOIN images m USING (image) GROUP BY rule, severity
    ORDER BY list_position(['critical', 'high', 'medium', 'low', 'info'], severity), machines, rule;

-- The same crash on many machines.
CREATE VIEW same_crash AS
    SELECT c.fingerprint, any_value(kind) AS kind, any_value(functions) AS functions, count(DISTINCT c.image) AS machines,
           list(DISTINCT m.release) AS releases, list(DISTINCT m.location) AS locations
    FROM crashes c JOIN images m USING (image) WHERE c.fingerprint <> '' GROUP BY c.fingerprint;

-- Names without what every machine has otherwise: a "#" stands for numbers, identifiers, and what mktemp makes up.
CREATE MACRO alike_name(name) AS regexp_replace(name, '[0-9]+', '#', 'g');
CREATE MACRO alike_path(path) AS
    regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(path,
        '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}', '#', 'g'),  -- a UUID
        '[0-9a-f]{12,}|[0-9]{5,}', '#', 'g'),  -- of containers, packages, shared memory
        '/tmp\.?[A-Za-z0-9_]{8,10}(/|$| )', '/tmp#\1', 'g'),
        '(/systemd-private-#-.*)-[A-Za-z0-9]{6}(/|$| )', '\1-#\2'),
        '/[0-9]+(/|$| )', '/#\1', 'g');  -- a process below /proc, a user below /run/user

-- How a file lies in memory: its areas in order, with their size; of files that have code there.
CREATE VIEW layouts AS
    SELECT image, mm, name, string_agg(perms || ' ' || size // 1024 || 'K', ', ' ORDER BY start) AS layout
    FROM vmas WHERE name LIKE '/%' GROUP BY image, mm, name HAVING bool_or(perms LIKE '%x%');

-- Whole contents of executable memory without a file, where most machines that have such memory have another one in
-- common. What a compiler makes at run time is different on all of them, and says nothing.
CREATE VIEW differing_content AS
    WITH held AS (
        SELECT DISTINCT a.image, a.build, alike_name(e.comm) || ' ' || e.name AS what, e.content
        FROM executables e JOIN analysed a USING (image) WHERE e.content <> '' AND e.name NOT LIKE '/%'),
    counted AS (SELECT build, what, content, count(*) AS seen FROM held GROUP BY build, what, content),
    whats AS (
        SELECT build, what, max(seen) AS most, arg_max(content, seen) AS common,
               (SELECT count(DISTINCT image) FROM held h WHERE h.build = c.build AND h.what = c.what) AS machines
        FROM counted c GROUP BY build, what)
    SELECT h.image, h.what || ' ' || h.content AS name FROM held h JOIN whats w USING (build, what)
    WHERE 2 * w.most > w.machines AND w.machines > 2 AND h.content <> w.common;

-- Whatever a machine has that can be counted: what it is, and its name. "rank": what tells most comes first.
CREATE VIEW traits AS
    SELECT DISTINCT image, 0 AS rank, 'hidden module' AS trait, name FROM modules WHERE NOT listed
    UNION ALL
    SELECT DISTINCT image, 1, 'finding', trim(rule || ' ' || severity || ' ' || alike_name(comm)) FROM findings
    WHERE severity <> 'info'
    UNION ALL
    SELECT DISTINCT image, 2, 'hook', kind || ': ' || place || ' by ' || owner FROM hooks
    UNION ALL
    SELECT DISTINCT image, 3, 'module', name FROM modules WHERE listed
    UNION ALL
    SELECT DISTINCT image, 4, 'executable content', name FROM differing_content
    UNION ALL
    SELECT DISTINCT image, 5, 'executable memory without a file',
           alike_name(comm) || ' ' || perms || ' ' || coalesce(nullif(alike_name(name), ''), 'anonymous')
    FROM executables WHERE name NOT LIKE '/%' AND name NOT IN ('[vdso]', '[vsyscall]')
    UNION ALL
    SELECT DISTINCT image, 6, 'program', alike_path(exe) FROM processes WHERE exe <> ''
    UNION ALL
    SELECT DISTINCT image, 7, 'executable file', alike_path(name) FROM executables WHERE name LIKE '/%'
    UNION ALL
    SELECT DISTINCT image, 8, 'layout of a file', alike_path(name) || ': ' || layout FROM layouts
    UNION ALL
    SELECT DISTINCT image, 9, 'process name', CASE WHEN kind = 'kernel' THEN '[' || alike_name(comm) || ']'
                                                   ELSE alike_name(comm) END
    FROM processes WHERE comm <> '';

-- What few machines of a kind have: a quarter of them at most, one of three at least.
CREATE VIEW rarity AS
    SELECT m.build, m.role, t.rank, t.trait, t.name, count(DISTINCT t.image) AS seen, any_value(k.machines) AS of,
           count(DISTINCT t.image) / any_value(k.machines) AS share, list(DISTINCT m.location ORDER BY m.location) AS locations
    FROM traits t JOIN analysed m USING (image) JOIN kinds k ON k.build = m.build AND k.role = m.role
    GROUP BY m.build, m.role, t.rank, t.trait, t.name
    HAVING 4 * count(DISTINCT t.image) <= any_value(k.machines)
        OR (count(DISTINCT t.image) = 1 AND any_value(k.machines) >= 3)
    ORDER BY share, rank, m.build, m.role, t.name;

-- The same, a row for all that the same machines have: one odd machine does not bury the others.
CREATE VIEW rare_together AS
    SELECT rank, trait, role, list(name ORDER BY name) AS names, seen, "of", locations
    FROM rarity GROUP BY rank, trait, build, role, seen, "of", locations
    ORDER BY rank, seen / "of", "of" DESC, role, locations;

-- What each machine has that is rare among its kind, findings left out: how much, and what tells most of it.
CREATE VIEW odd AS
    SELECT t.image, count(*) AS rare,
           list(t.trait || ': ' || t.name ORDER BY t.rank, r.share, t.name)[:3] AS foremost
    FROM traits t JOIN analysed m USING (image)
    JOIN rarity r ON r.build = m.build AND r.role = m.role AND r.trait = t.trait AND r.name = t.name
    WHERE t.trait <> 'finding' GROUP BY t.image;

-- What was found on each machine, the worst first; each title once.
CREATE VIEW told AS
    SELECT image, count(*) AS different, list(title ORDER BY worst, title)[:3] AS foremost FROM (
        SELECT image, title, min(list_position(['critical', 'high', 'medium'], severity)) AS worst FROM findings
        WHERE severity IN ('critical', 'high', 'medium') GROUP BY image, title)
    GROUP BY image;

-- Modules and programs that nine of ten machines of a kind have, and which do not: an agent that was stopped, say.
CREATE VIEW lacking AS
    SELECT w.trait, w.name, w.role, w.of - w.seen AS lack, w.of,
           (SELECT list(m.location ORDER BY m.location) FROM analysed m WHERE m.build = w.build AND m.role = w.role
                AND NOT EXISTS (SELECT 1 FROM traits t
                                WHERE t.image = m.image AND t.trait = w.trait AND t.name = w.name)) AS locations
    FROM (SELECT m.build, m.role, t.trait, t.name, count(DISTINCT t.image) AS seen, any_value(k.machines) AS of
          FROM traits t JOIN analysed m USING (image) JOIN kinds k ON k.build = m.build AND k.role = m.role
          WHERE t.trait IN ('module', 'program') GROUP BY m.build, m.role, t.trait, t.name) w
    WHERE w.seen < w.of AND 10 * w.seen >= 9 * w.of
    ORDER BY lack, w.of DESC, w.trait, w.name;

-- How a file's pages compare with what most machines of its kernel build have at the same place.
CREATE VIEW compared_code AS
    WITH held AS (
        SELECT DISTINCT a.build, a.image, c.name, c.page, c.content FROM code c JOIN analysed a USING (image)
        WHERE c.content <> '' AND NOT c.outside AND (c.name LIKE '/%' OR c.name = '[vdso]')),
    counted AS (SELECT build, name, page, content, count(*) AS seen FROM held GROUP BY ALL),
    places AS (SELECT build, name, page, count(DISTINCT image) AS of FROM held GROUP BY ALL),
    common AS (
        SELECT build, name, page, arg_max(content, seen) AS content, max(seen) AS seen FROM counted GROUP BY ALL)
    SELECT h.*, common.content AS usual, places.of FROM held h
    JOIN common USING (build, name, page) JOIN places USING (build, name, page)
    WHERE places.of > 2 AND 2 * common.seen > places.of;

-- Files of which a machine has another version than most: fewer than half of the pages that can be compared are alike.
CREATE VIEW other_versions AS
    SELECT build, image, name, count(DISTINCT page) AS pages, count(DISTINCT page) FILTER (content = usual) AS alike
    FROM compared_code GROUP BY build, image, name
    HAVING 2 * count(DISTINCT page) FILTER (content = usual) < count(DISTINCT page);

CREATE VIEW other_versions_together AS
    SELECT o.name, count(*) AS machines, list(m.location ORDER BY m.location) AS locations
    FROM other_versions o JOIN images m USING (image) GROUP BY o.build, o.name ORDER BY machines, o.name;

-- Pages that few machines have otherwise in a file that is alike elsewhere: a patch in memory.
CREATE VIEW changed_code AS
    SELECT c.name, c.page, c.content, count(DISTINCT c.image) AS seen, any_value(c.of) AS of,
           list(DISTINCT m.location ORDER BY m.location) AS locations
    FROM compared_code c JOIN images m USING (image)
    WHERE c.content <> c.usual
      AND NOT EXISTS (SELECT 1 FROM other_versions o WHERE o.image = c.image AND o.name = c.name)
    GROUP BY c.build, c.name, c.page, c.content
    ORDER BY seen, c.name, c.page, c.content;

-- The same bytes executable outside of files, and where.
CREATE VIEW same_content AS
    SELECT c.content, count(DISTINCT c.image) AS machines, list(DISTINCT c.name) AS names,
           list(DISTINCT m.location ORDER BY m.location) AS locations
    FROM code c JOIN images m USING (image)
    WHERE c.content <> '' AND (c.outside OR c.name NOT LIKE '/%') AND c.name <> '[vdso]'
    GROUP BY c.content;

-- The same indicator everywhere, whatever the kind of the machine: what is on more than one of them and not on most.
CREATE VIEW indicators AS
    WITH marks AS (
        SELECT DISTINCT image, 0 AS rank, 'hidden module' AS indicator, name FROM modules WHERE NOT listed
        UNION ALL
        SELECT DISTINCT image, 1, 'finding', rule || ' ' || severity FROM findings
        WHERE severity IN ('critical', 'high', 'medium')
        UNION ALL
        SELECT DISTINCT image, 2, 'hook', kind || ': ' || place || ' by ' || owner FROM hooks
        UNION ALL
        SELECT DISTINCT image, 3, 'executable page without a file', content FROM code
        WHERE content <> '' AND (outside OR name NOT LIKE '/%') AND name <> '[vdso]')
    SELECT rank, indicator, k.name, count(DISTINCT k.image) AS machines,
           list(DISTINCT m.location ORDER BY m.location) AS locations
    FROM marks k JOIN analysed m USING (image) GROUP BY rank, indicator, k.name
    HAVING count(DISTINCT k.image) > 1 AND (rank < 2 OR 2 * count(DISTINCT k.image) <= (SELECT count(*) FROM analysed))
    ORDER BY rank, machines DESC, k.name;
