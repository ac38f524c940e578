-- measured: the metrics in the order in which they are read: steps as they ran, the whole before its slices, sizes by their
-- number, stages as they ran.
-- Takes: metrics, steps. Gives: step, metric, value, ci_low, ci_high, n, slice, in order.
SELECT metrics.*
FROM metrics
LEFT JOIN (SELECT step, min(ordinal) AS place FROM steps GROUP BY step) AS ran ON metrics.step = ran.step
LEFT JOIN (SELECT 'stage=' || step AS slice, min(ordinal) AS place FROM steps GROUP BY step) AS stage ON metrics.slice = stage.slice
ORDER BY
    ran.place, metrics.step, metrics.slice IS NOT NULL, metric, split_part(metrics.slice, '=', 1), stage.place,
    TRY_CAST(split_part(metrics.slice, '=', 2) AS DOUBLE), metrics.slice
