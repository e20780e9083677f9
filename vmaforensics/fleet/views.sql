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
    SELECT severity, rule, any_value(rule_title) AS title, count(*) AS findings, count(DISTINCT image) AS machines
    FROM findings GROUP BY rule, severity;

-- The same crash on many machines.
CREATE VIEW same_crash AS
    SELECT c.fingerprint, any_value(kind) AS kind, any_value(functions) AS functions, count(DISTINCT c.image) AS machines,
           list(DISTINCT m.release) AS releases, list(DISTINCT m.location) AS locations
    FROM crashes c JOIN images m USING (image) WHERE c.fingerprint <> '' GROUP BY c.fingerprint;

-- Whatever a machine has that can be counted: what it is, and its name.
CREATE VIEW traits AS
    SELECT DISTINCT image, 'module' AS trait, name FROM modules
    UNION ALL
    SELECT DISTINCT image, 'program', exe FROM processes WHERE exe <> ''
    UNION ALL
    SELECT DISTINCT image, 'process name', comm FROM processes
    UNION ALL
    SELECT DISTINCT image, 'executable file', name FROM executables WHERE name LIKE '/%'
    UNION ALL
    SELECT DISTINCT image, 'executable memory without a file', comm || ' ' || perms || ' ' || name
    FROM executables WHERE name NOT LIKE '/%' AND name NOT IN ('[vdso]', '[vsyscall]')
    UNION ALL
    SELECT DISTINCT image, 'memory map', exe || ' ' || layout FROM (
        SELECT v.image, v.mm, any_value(p.exe) AS exe,
               md5(string_agg(v.perms || v.kind || v.name || v.size, ' ' ORDER BY v.start)) AS layout
        FROM vmas v JOIN processes p ON p.image = v.image AND p.mm = v.mm AND p.pid = v.pid
        WHERE p.exe <> '' AND v.name LIKE '/%' GROUP BY v.image, v.mm)
    UNION ALL
    SELECT DISTINCT image, 'finding', rule || ' ' || severity || ' ' || comm FROM findings
    UNION ALL
    SELECT DISTINCT image, 'executable content', content FROM executables
    WHERE content <> '' AND name NOT LIKE '/%' AND name NOT IN ('[vdso]', '[vsyscall]');

-- What few machines of a kind have, the rarest first.
CREATE VIEW rarity AS
    SELECT m.build, m.role, t.trait, t.name, count(DISTINCT t.image) AS seen, any_value(k.machines) AS of,
           count(DISTINCT t.image) / any_value(k.machines) AS share, list(DISTINCT m.location) AS locations
    FROM traits t JOIN analysed m USING (image) JOIN kinds k ON k.build = m.build AND k.role = m.role
    GROUP BY m.build, m.role, t.trait, t.name HAVING count(DISTINCT t.image) < any_value(k.machines)
    ORDER BY share, seen, m.build, m.role, t.trait, t.name;

-- Pages of one place of one file whose content differs between machines that hold the file alike elsewhere.
CREATE VIEW changed_code AS
    SELECT c.name, c.page, c.content, count(DISTINCT c.image) AS seen, any_value(p.machines) AS of,
           any_value(p.contents) AS contents, list(DISTINCT m.location) AS locations
    FROM code c JOIN images m USING (image)
    JOIN (SELECT name, page, count(DISTINCT image) AS machines, count(DISTINCT content) AS contents
          FROM code WHERE name LIKE '/%' GROUP BY name, page) p ON p.name = c.name AND p.page = c.page
    WHERE p.contents > 1 AND p.machines > 2
    GROUP BY c.name, c.page, c.content HAVING 2 * count(DISTINCT c.image) < any_value(p.machines)
    ORDER BY seen, c.name, c.page, c.content;

-- The same indicator everywhere: executable content outside of files, and where it is.
CREATE VIEW same_content AS
    SELECT c.content, count(DISTINCT c.image) AS machines, list(DISTINCT c.name) AS names,
           list(DISTINCT m.location) AS locations
    FROM code c JOIN images m USING (image) WHERE c.outside OR c.name NOT LIKE '/%' AND c.name <> '[vdso]'
    GROUP BY c.content;
